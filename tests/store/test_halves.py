from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nextmem_agents.store.exact import unit
from nextmem_agents.store.halves import BYTES, from_halves, to_halves

FLOATS = st.floats(-(2.0**126), 2.0**126, width=32)
VECTORS = arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 40)), elements=FLOATS)


@given(VECTORS)
def test_any_vector_keeps_its_direction_and_what_was_kept_stays_as_it_is(vectors):
    kept = to_halves(vectors)
    read = from_halves(kept.tobytes(), vectors.shape[1])
    assert kept.tobytes() == to_halves(read).tobytes()
    assert len(kept.tobytes()) == BYTES * vectors.size
    np.testing.assert_allclose(np.sum(unit(read) * unit(vectors), axis=-1), vectors.any(axis=-1), atol=1e-5)
