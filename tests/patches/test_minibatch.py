"""One buffer holds a minibatch: parts lie apart, aligned, and come out as they were put in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hpcseg.patches.codes import table_row
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.minibatch import CodedBatch
from hpcseg.patches.plain import PlainLayout
from hpcseg.volumes.normalise import Normalisation
from hpcseg.volumes.pyramid import Coding

LAYOUTS = [
    PlainLayout(3, FovealGeometry(3, 1, 2), (0, 1), labelled=True, dtype=torch.float32),
    PlainLayout(1, FovealGeometry(1, 3, 1), (0,), labelled=False, dtype=torch.float32),
    PlainLayout(2, FovealGeometry(5, 1, 3), (2, 0, 1), labelled=True, dtype=torch.float32),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_have_their_shapes_and_lie_apart_in_one_buffer(layout):
    buffer = layout.buffer()
    assert buffer.dtype == torch.uint8 and buffer.ndim == 1
    parts = layout.parts.views(buffer)
    assert parts[0].shape == (layout.batch, 6) and parts[0].dtype == torch.float32
    boxes = parts[1 : 1 + len(layout.levels)]
    assert [box.shape[1:] for box in boxes] == [(layout.geometry.inputs[level],) * 3 for level in layout.levels]
    assert all(box.dtype == torch.int16 for box in boxes)
    assert len(parts) == 1 + len(layout.levels) + layout.labelled
    if layout.labelled:
        assert parts[-1].shape == (layout.batch, *(layout.geometry.patch,) * 3) and parts[-1].dtype == torch.uint8
    ends = [(p.data_ptr() - buffer.data_ptr(), p.data_ptr() - buffer.data_ptr() + p.nbytes) for p in parts]
    assert all(first % 256 == 0 for first, _ in ends)
    assert all(end <= first for (_, end), (first, _) in itertools.pairwise(ends))
    assert 0 <= buffer.nbytes - ends[-1][1] < 256


def test_decoding_gives_what_the_parts_say():
    layout, how = LAYOUTS[0], Normalisation(-50, 90, 10, 20)
    buffer = layout.buffer()
    generator = np.random.default_rng(0)
    table, *boxes, label = layout.parts.views(buffer)
    for box in boxes:
        box.numpy()[...] = generator.integers(-200, 200, box.shape)
    label.numpy()[...] = generator.integers(0, 4, label.shape)
    table.numpy()[...] = table_row(Coding(0.5, 3.0), how)
    batch = CodedBatch(layout, buffer).to("cpu")
    for image, codes in zip(batch.images, boxes, strict=True):
        expected = how.apply(codes.numpy().astype(np.float32) * np.float32(0.5) + np.float32(3))
        np.testing.assert_array_equal(image[:, 0].numpy(), expected)
    assert batch.label_BDHW.dtype == torch.int64
    assert batch.label_BDHW is not None and torch.equal(batch.label_BDHW, label.to(torch.int64))


@pytest.mark.needs_gpu
def test_pinned_buffers_cross_in_one_copy():
    layout = LAYOUTS[0]
    buffer = layout.buffer(pinned=True)
    assert buffer.is_pinned()
    buffer.zero_()
    layout.parts.views(buffer)[0][:] = torch.tensor([1.0, 0, -1, 1, 0, 1])
    found, expected = CodedBatch(layout, buffer).to("cuda"), CodedBatch(layout, buffer).to("cpu")
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found.images, expected.images, strict=True))
