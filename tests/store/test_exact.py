from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nextmem_agents.store.exact import Matrices, rank, unit

# Few values, so that many scores are equal.
VECTORS = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 20), st.just(2)), elements=st.sampled_from([-1, 0, 0.5, 1])
)


@given(VECTORS, st.integers(1, 8), st.integers(1, 5), st.data())
def test_blocks_are_ranked_as_a_whole_would_be(vectors, k, block, data):
    versions = np.sort(
        np.array(data.draw(st.lists(st.integers(1, 9), min_size=len(vectors), max_size=len(vectors))))
    )
    versions = versions.astype(np.int64)
    allowed = data.draw(st.none() | st.lists(st.integers(1, 9)).map(lambda v: np.array(v, dtype=np.int64)))
    query = unit(np.array([1.0, 0.5], dtype=np.float32))
    units = unit(vectors)
    blocks = [(versions[i : i + block], units[i : i + block]) for i in range(0, len(vectors), block)]
    best: dict[int, float] = {}
    for version, vector in zip(versions.tolist(), units, strict=True):
        if allowed is None or version in allowed:
            best[version] = max(best.get(version, -1.0), float(vector @ query))
    expected = sorted(best, key=lambda version: (-np.float32(best[version]), version))[:k]
    found = rank(blocks, query, k, allowed)
    np.testing.assert_allclose([score for _, score in found], [best[v] for v in expected], atol=1e-6)
    assert {version for version, _ in found} <= best.keys()
    assert len({version for version, _ in found}) == len(found)


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_a_unit_vector_has_length_one_whatever_its_scale(vectors):
    lengths = np.linalg.norm(unit(vectors).astype(np.float64), axis=-1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (np.abs(vectors).max(axis=-1) == 0))


def test_the_cache_stays_within_its_budget():
    loads = []

    def loader(scope):
        def load(after):
            assert after == 0
            loads.append(scope)
            return np.arange(4), np.zeros((4, 8), dtype=np.float32)

        return load

    matrices = Matrices(budget=256)
    for scope in (1, 2, 1, 3, 1, 2):
        matrices.get(scope, loader(scope))
    assert loads == [1, 2, 3, 2]
    matrices.drop(1)
    matrices.get(1, loader(1))
    assert loads == [1, 2, 3, 2, 1]


def test_what_was_appended_alone_is_read():
    rows = np.arange(1, 7), np.arange(12, dtype=np.float32).reshape(6, 2)
    read = []

    def load(after):
        read.append(after)
        return rows[0][rows[0] > after][:3], rows[1][rows[0] > after][:3]

    matrices = Matrices()
    assert matrices.get(1, load)[0].tolist() == [1, 2, 3]
    matrices.appended(2)  # is not at hand
    matrices.get(1, load)
    matrices.appended(1)
    versions, vectors = matrices.get(1, load)
    assert np.array_equal(versions, rows[0])
    assert np.array_equal(vectors, rows[1])
    matrices.get(1, load)
    assert read == [0, 3]
    assert (matrices.held(1), matrices.held(2)) == (6, None)
