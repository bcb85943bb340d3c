"""One buffer holds a minibatch: parts lie apart, aligned, and come out as they were put in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hpcseg.patches.codes import table_row
from hpcseg.patches.minibatch import Layout, StreamedBatch
from hpcseg.volumes.normalise import Normalisation

LAYOUTS = [
    Layout(3, (5, 4), 3),
    Layout(1, (7,), None),
    Layout(2, (3, 2, 1), 5),
]


def _parts(layout, buffer):
    parts = layout.parts(buffer)
    labels = [] if parts.label_BDHW is None else [parts.label_BDHW]
    return [parts.table_B6, *parts.images, *labels]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_have_their_shapes_and_lie_apart_in_one_buffer(layout):
    buffer = layout.buffer()
    assert buffer.dtype == torch.uint8 and buffer.ndim == 1
    parts = _parts(layout, buffer)
    assert parts[0].shape == (layout.batch, 6) and parts[0].dtype == torch.float32
    boxes = parts[1 : 1 + len(layout.edges)]
    assert [box.shape[1:] for box in boxes] == [(edge,) * 3 for edge in layout.edges]
    assert all(box.dtype == torch.int16 for box in boxes)
    if layout.label is not None:
        assert parts[-1].shape == (layout.batch, *(layout.label,) * 3) and parts[-1].dtype == torch.uint8
    ends = [(p.data_ptr() - buffer.data_ptr(), p.data_ptr() - buffer.data_ptr() + p.nbytes) for p in parts]
    assert all(first % 256 == 0 for first, _ in ends)
    assert all(end <= first for (_, end), (first, _) in itertools.pairwise(ends))
    assert 0 <= buffer.nbytes - ends[-1][1] < 256


def test_windowing_gives_what_the_parts_say():
    layout, how = LAYOUTS[0], Normalisation(-50, 90, 10, 20)
    buffer = layout.buffer()
    generator = np.random.default_rng(0)
    parts = layout.parts(buffer)
    for image in parts.images:
        image.numpy()[...] = generator.integers(-200, 200, image.shape)
    parts.label_BDHW.numpy()[...] = generator.integers(0, 4, parts.label_BDHW.shape)
    parts.table_B6.numpy()[...] = table_row(0.5, 3.0, how)
    batch = StreamedBatch(layout, buffer).to("cpu")
    for image, codes in zip(batch.images, parts.images, strict=True):
        expected = how.apply(codes.numpy().astype(np.float32) * np.float32(0.5) + np.float32(3))
        np.testing.assert_array_equal(image[:, 0].numpy(), expected)
    assert batch.label_BDHW.dtype == torch.int64
    assert torch.equal(batch.label_BDHW, parts.label_BDHW.to(torch.int64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pinned_buffers_cross_in_one_copy():
    layout = LAYOUTS[0]
    buffer = layout.buffer(pinned=True)
    assert buffer.is_pinned()
    buffer.zero_()
    layout.parts(buffer).table_B6[:] = torch.tensor([1.0, 0, -1, 1, 0, 1])
    found, expected = StreamedBatch(layout, buffer).to("cuda"), StreamedBatch(layout, buffer).to("cpu")
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found.images, expected.images, strict=True))
