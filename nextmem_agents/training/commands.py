"""``nextmem train``: a small codec from scratch, a small language model, and the paper's two LoRA stages."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from nextmem_agents.evaluation.reconstruction import Reconstruction
    from nextmem_agents.training.loop import LoopConfig

Config = TypeVar("Config", bound="LoopConfig")

train = typer.Typer()

DataOption = Annotated[Path, typer.Option(help="A text file, or a folder of them (.jsonl, .jsonl.xz, .txt).")]
RunOption = Annotated[Path, typer.Option(help="Folder of the run; what it holds is resumed.")]


def _new(folder: Path | None) -> Path | None:
    """Say before the training that a folder cannot be written, not after it."""
    if folder is not None:
        from nextmem_agents.codec.checkpoint import check_new

        check_new(folder)
    return folder


ConfigOption = Annotated[
    Path | None, typer.Option(help="Settings as JSON or YAML; by default the documented ones.")
]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Override the number of steps.")]
CodecOption = Annotated[str, typer.Option(help="A shipped codec's name or a checkpoint folder.")]
ExportOption = Annotated[
    Path | None, typer.Option(callback=_new, help="Write the codec with it into this new folder.")
]
CompileOption = Annotated[bool, typer.Option("--compile/--no-compile", help="Compile what is trained.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print what was trained as one JSON object at the end.")
]
BackboneOption = Annotated[
    Path,
    typer.Option(
        help="The pretrained model's folder (config.json, weights, tokenizer.json), Qwen3-8B or smaller."
    ),
]


@train.callback(invoke_without_command=True)
def from_scratch(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Folder of training texts (.jsonl, .jsonl.xz, .txt).")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; what it holds is resumed.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings as JSON or YAML; by default those of `mini`.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Override the number of steps, of every part.")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Write the trained codec into this new folder.")] = None,
    compile_model: CompileOption = True,
    as_json: JsonOption = False,
) -> None:
    """Train a small codec from scratch, or go on with a run that was interrupted.

    Settings may have an index head and a span reader under `index_head` and `span_reader`, which are trained after it;
    those of `mini` do.

    On a CPU two processes of one thread each are fastest:
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 -m nextmem_agents.cli train …

    The commands below train LoRA adapters on a pretrained backbone instead, as the paper does; they take
    `accelerate launch` or torchrun for several GPUs.
    """
    if context.invoked_subcommand is not None:
        if data is not None or output is not None:
            raise typer.BadParameter(f"give options after `{context.invoked_subcommand}`")
        return
    if data is None or output is None:
        missing = "--data" if data is None else "--output"
        raise typer.BadParameter("it is required to train from scratch", param_hint=missing)
    from nextmem_agents.training.config import MINI
    from nextmem_agents.training.recipe import Recipe, train_recipe

    recipe = Recipe.load(config or MINI)
    if steps is not None:
        recipe = recipe.with_steps(steps)
    found = train_recipe(recipe, data, output, export, compile_model=compile_model)
    # Its training writes the folder itself.
    _finish("codec", output, export, as_json, lambda _: None, _held_out_scores(found))


@train.command()
def language_model(
    data: DataOption,
    output: RunOption,
    config: ConfigOption = None,
    steps: StepsOption = None,
    export: Annotated[
        Path | None, typer.Option(callback=_new, help="Write the model into this new folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pretrain a small Qwen3 on next tokens: a backbone for the two stages where there is none."""
    from nextmem_agents.training.language_model import (
        LanguageModelConfig,
        export_language_model,
        train_language_model,
    )

    loss = train_language_model(_settings(LanguageModelConfig, config, steps), data, output)
    found = {} if loss is None else {"held_out_loss": loss}
    _finish(
        "language model", output, export, as_json, lambda folder: export_language_model(output, folder), found
    )


@train.command()
def stage_1(
    backbone: BackboneOption,
    data: DataOption,
    output: RunOption,
    config: ConfigOption = None,
    steps: StepsOption = None,
    export: Annotated[
        Path | None,
        typer.Option(callback=_new, help="Write adapter and special tokens into this new folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Stage 1, autoregressive reconstruction alignment: the backbone learns to repeat a text after [SoD]."""
    from nextmem_agents.training.stage_1 import Stage1Config, export_stage_1, train_stage_1

    train_stage_1(_settings(Stage1Config, config, steps), backbone, data, output)
    _finish("stage 1", output, export, as_json, lambda folder: export_stage_1(output, backbone, folder))


@train.command()
def stage_2(
    backbone: BackboneOption,
    stage_1: Annotated[Path, typer.Option(help="What `train stage-1 --export` wrote.")],
    data: DataOption,
    output: RunOption,
    config: ConfigOption = None,
    steps: StepsOption = None,
    export: Annotated[
        Path | None, typer.Option(callback=_new, help="Write the trained codec into this new folder.")
    ] = None,
    copy_backbone: Annotated[
        bool, typer.Option(help="Copy the backbone's weights into the codec too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Stage 2, progressive latent substitution: the encoder learns latents that the frozen decoder reads."""
    from nextmem_agents.training.lora_export import export_codec
    from nextmem_agents.training.stage_2 import Stage2Config, train_stage_2

    train_stage_2(_settings(Stage2Config, config, steps), backbone, stage_1, data, output)
    scores: dict[str, float] = {}

    def write(folder: Path) -> None:
        scores.update(
            _held_out_scores(export_codec(output, backbone, stage_1, folder, copy_backbone=copy_backbone))
        )

    _finish("codec", output, export, as_json, write, scores)


@train.command()
def index_head(
    data: DataOption,
    output: RunOption,
    codec: CodecOption = "mini",
    config: ConfigOption = None,
    steps: StepsOption = None,
    export: ExportOption = None,
    compile_model: CompileOption = True,
    as_json: JsonOption = False,
) -> None:
    """Train what a codec's latents are searched by; the codec itself stays as it is."""
    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.training.export import extend_codec
    from nextmem_agents.training.matching import IndexHeadConfig, train_index_head

    settings = _settings(IndexHeadConfig, config, steps)
    head = train_index_head(LatentCodec.load(codec), settings, data, output, compile_model=compile_model)
    _finish("codec", output, export, as_json, lambda folder: extend_codec(codec, folder, head=head))


@train.command()
def reader(
    data: DataOption,
    output: RunOption,
    codec: CodecOption = "mini",
    config: ConfigOption = None,
    steps: StepsOption = None,
    export: ExportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a small adapter that answers questions from a codec's latents; the codec itself stays as it is."""
    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.training.export import extend_codec
    from nextmem_agents.training.reader import ReaderConfig, train_reader

    adapter = output / "adapter"
    train_reader(LatentCodec.load(codec), _settings(ReaderConfig, config, steps), data, output, adapter)
    _finish("codec", output, export, as_json, lambda folder: extend_codec(codec, folder, reader=adapter))


@train.command()
def span_reader(
    data: DataOption,
    output: RunOption,
    codec: CodecOption = "mini",
    config: ConfigOption = None,
    steps: StepsOption = None,
    export: ExportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train what finds the answer to a question in latents or text; the codec itself stays as it is."""
    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.training.export import extend_codec
    from nextmem_agents.training.span_reading import SpanReaderConfig, train_span_reader

    reader = train_span_reader(
        LatentCodec.load(codec), _settings(SpanReaderConfig, config, steps), data, output
    )
    _finish("codec", output, export, as_json, lambda folder: extend_codec(codec, folder, span_reader=reader))


@train.command()
def word_vectors(
    data: DataOption,
    output: RunOption,
    config: ConfigOption = None,
    steps: StepsOption = None,
    export: Annotated[Path | None, typer.Option(help="Write the related words to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the word vectors by which a question finds words of like meaning; minutes on one core."""
    from nextmem_agents.training.word_vectors import WordVectorsConfig, train_word_vectors

    train_word_vectors(_settings(WordVectorsConfig, config, steps), data, output, export)
    _finish("related words", output, export, as_json, lambda _: None)  # its training writes the file itself


def _held_out_scores(found: Reconstruction | None) -> dict[str, float]:
    if found is None:
        return {}
    return {
        "held_out_f1": found.quantised.f1,
        "held_out_exact": found.quantised.exact,
        "held_out_texts": found.n,
    }


def _settings(kind: type[Config], path: Path | None, steps: int | None) -> Config:
    from nextmem_agents.training import settings

    found = kind() if path is None else settings.load(kind, path)
    return found if steps is None else dataclasses.replace(found, steps=steps)


def _finish(
    what: str,
    run: Path,
    export: Path | None,
    as_json: bool,
    write: Callable[[Path], None],
    found: Mapping[str, float] | None = None,
) -> None:
    """In the first process: write the result, and say where it and the run are, with the last step's figures."""
    from nextmem_agents.training.loop import LOG_FILE
    from nextmem_agents.training.scratch import is_first_process

    if not is_first_process():
        return
    if export is not None:
        write(export)
    log = run / LOG_FILE
    figures = {}
    if log.is_file():
        with log.open(encoding="utf-8") as lines:
            figures = json.loads(deque(lines, maxlen=1)[0])
    if as_json:
        written = None if export is None else str(export)
        typer.echo(json.dumps({"run": str(run), "export": written, "last_step": figures, **(found or {})}))
        return
    if found:
        typer.echo(", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in found.items()))
    typer.echo(f"run kept in {run}" if export is None else f"{what} written to {export}")
