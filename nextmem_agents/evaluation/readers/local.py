"""``TransformersReader``: any causal language model in a folder of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nextmem_agents.errors import DataError, ReaderError
from nextmem_agents.evaluation.readers.reader import INSTRUCTIONS, Reader


class TransformersReader(Reader):
    """A model that transformers can load, answering greedily; nothing is downloaded.

    Args:
        folder: with ``config.json``, weights and tokenizer.
        max_new_tokens: where a reply is cut at the latest.
        device: where it runs.
        dtype: of its weights.

    Raises:
        DataError: there is no such folder, or it holds no model that can be loaded.
    """

    instructions = INSTRUCTIONS

    def __init__(
        self, folder: str | Path, max_new_tokens: int = 32, device: str = "cpu", dtype: str = "float32"
    ):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = Path(folder)
        if not (path / "config.json").is_file():
            raise DataError(f"{path} is no folder with a model: it has no config.json")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
            self._model: Any = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=dtype)
            self._model = self._model.to(device).eval()
        except (OSError, ValueError, RuntimeError, ImportError, AttributeError, TypeError) as error:
            raise DataError(f"the model in {path} cannot be loaded: {error}") from error
        self.name = f"transformers:{path.resolve().name}"
        self.max_new_tokens = max_new_tokens
        self._described = {
            "max_new_tokens": max_new_tokens,
            "dtype": dtype,
            "device": device,
            # Not a hash of gigabytes: sizes and names tell one checkpoint from another well enough to resume.
            "files": {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.is_file()},
        }

    def settings(self) -> dict[str, Any]:
        """With the sizes of the model's files."""
        return super().settings() | self._described

    @torch.inference_mode()
    def reply(self, prompt: str, system: str | None = None) -> str:
        """The model's greedy reply, in its chat template where it has one."""
        inputs = self._inputs(prompt, self.instructions if system is None else system).to(self._model.device)
        try:
            made = self._model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0,
            )
        except (RuntimeError, ValueError, IndexError) as error:
            raise ReaderError(
                f"{self.name} could not read a prompt of {inputs['input_ids'].shape[1]} tokens: {error}"
            ) from error
        ids = made[0, inputs["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _inputs(self, prompt: str, system: str) -> Any:
        if not self._tokenizer.chat_template:
            return self._tokenizer(f"{system}\n\n{prompt}", return_tensors="pt")
        return self._tokenizer.apply_chat_template(
            [{"role": "system", "content": system}, {"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            enable_thinking=False,
        )
