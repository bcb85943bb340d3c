"""Stores, models and checkpoints: damaged, and made on purpose with checksums that are right."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from numpy.typing import NDArray

from hpcseg import paths
from hpcseg.inference.segment import Segmenter
from hpcseg.inspection import store_findings
from hpcseg.screens.inspection import report_tables
from hpcseg.training.loop import _resume
from hpcseg.training.model import TrainedModel
from hpcseg.training.pretrained import pretrained_weights
from hpcseg.training.schedule import Schedule
from hpcseg.volumes.seal import SEAL_BYTES, Seal
from hpcseg.volumes.store import Store
from tests.fuzzing.judging import Format, Words
from tests.fuzzing.mutations import BYTES, Mutation, Raw, changed_json, hostile
from tests.fuzzing.run_files import _bytes, _of
from tests.fuzzing.study import Study

_HEAD = b"hpcseg-tensors 1 "


def store(study: Study, words: Words) -> Any:
    """`hpcseg inspect` and all that a training reads."""
    path = study.pack.path / paths.STORE_FILE
    with patch.object(store_findings, "_MEASURED_S", 0.0):
        seen = store_findings.inspect_store(path)
    list(report_tables(seen))
    words += seen["problems"]
    found: dict[str, Any] = {"sound": None if seen["problems"] else True}
    with Store(path, verify=True) as opened:
        found |= {"attributes": opened.attrs, "checksums": {name: opened.checksums(name) for name in opened.names}}
        for name in opened.names:
            case = opened.case(name)
            sizes = [[min(n, 64) for n in case.shape_of(level)] for level in range(4)]
            boxes: list[NDArray[Any]] = [case.read(level, (-1, -1, -1), size) for level, size in enumerate(sizes)]
            boxes += [case.read_label((0, 0, 0), sizes[0])] if case.labelled else []
            boxes += [*case.foreground_by_class.values(), *case.histogram, *case.foreground_histogram]
            facts = (case.shape_zyx, case.coding, case.paddings, case.foreground_classes, case.ignored, case.nbytes)
            found[name] = [repr(facts), *(hashlib.sha256(box.tobytes()).hexdigest() for box in boxes)]
    return found


def forged_store(_: Path, mutation: Mutation, draw: random.Random, content: bytes) -> bytes:
    """Change the index, or any bytes, and make the seal and the digests anew."""
    seal = Seal(**json.loads(content[:SEAL_BYTES].partition(b"\n")[2].rstrip(b"\0")))
    offset, size = seal.index_offset, seal.index_size
    body = content[SEAL_BYTES:]
    if mutation is changed_json:
        index = json.loads(content[offset : offset + size])
        name = draw.choice(["", *index["cases"]])
        if name:
            index["cases"][name] = changed_json(draw, index["cases"][name].encode()).decode(errors="replace")
            text = json.dumps(index).encode()
        else:
            text = changed_json(draw, json.dumps(index).encode())
        offset, size, body = SEAL_BYTES + len(body), len(text), body + text
    else:
        body = mutation(draw, body)
    digests = (hashlib.sha256(body[at : at + (1 << 26)]).digest() for at in range(0, max(len(body), 1), 1 << 26))
    index_digest = hashlib.sha256(body[offset - SEAL_BYTES : offset - SEAL_BYTES + size]).hexdigest()
    whole = hashlib.sha256(b"".join(digests)).hexdigest()
    remade = dataclasses.replace(
        seal,
        size=SEAL_BYTES + len(body),
        digest=whole,
        index_offset=offset,
        index_size=size,
        index_digest=index_digest,
    )
    return remade.to_bytes()[:SEAL_BYTES] + body


def model(study: Study, words: Words) -> Any:
    """`hpcseg inspect` and `hpcseg segment`."""
    path = study.done.path / paths.MODEL_FILE
    found = TrainedModel.load(path)
    summary = found.summary()
    list(report_tables(summary))
    found.network(torch.device("cpu"))
    if found.config == study.plan.stages[study.done.id].config and found.name != study.done.id:
        Segmenter(found).segment(study.folder / "data" / "Tiny" / "imagesTs" / "case_005.nii.gz")
    return summary, found.config.model_dump(mode="json"), found.window, _digest(found.weights)


def pretrained(study: Study, words: Words) -> Any:
    """Weights that a training starts from."""
    return _digest(pretrained_weights(study.root / "pretrain" / "level0" / paths.MODEL_FILE, level=0))


def checkpoint(study: Study, words: Words) -> Any:
    """What a training goes on from."""
    task, run, _, config, digest, *_ = study.task
    schedule = Schedule(config, task.optimizers, task.epochs)
    history = (run / paths.HISTORY_FILE).read_bytes()
    try:
        progress = _resume(task, run, schedule, digest)
    finally:
        (run / paths.HISTORY_FILE).write_bytes(history)
    modules = {name: _digest(module.state_dict()) for name, module in task.modules.items()}
    states = {name: repr(optimizer.state_dict()) for name, optimizer in task.optimizers.items()}
    kept = vars(progress) | {"best_weights": _digest(progress.best_weights)}
    return modules, states, kept, schedule.state(), task.update.state()


def _digest(weights: Mapping[str, Any]) -> str:
    whole = hashlib.sha256()
    for name, weight in weights.items():
        whole.update(f"{name} {weight.shape} {weight.dtype}".encode() + weight.contiguous().numpy().tobytes())
    return whole.hexdigest()


def changed_tensors(draw: random.Random, content: bytes) -> bytes:
    """One value, or tensor, of what is saved is another one."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    places = list(_places(state))
    holder, key = draw.choice(places)
    kind = draw.choice(("replace", "replace", "replace", "delete", "rename", "config"))
    if kind == "config" and isinstance(state.get("config"), str):
        state["config"] = changed_json(draw, state["config"].encode()).decode(errors="replace")
    elif kind == "delete":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = _another(draw, holder[key])
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def _places(value: Any) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, part in items:
        found += [(value, key), *_places(part)]
    return found


def _another(draw: random.Random, value: Any) -> Any:
    """Something else in place of a value or a tensor; nothing that `torch.load` would call code."""
    if isinstance(value, torch.Tensor) and draw.random() < 0.8:
        whole = value if value.is_floating_point() else value.float()
        kin = (
            whole * torch.nan,
            whole * torch.inf,
            whole * 1e30,
            whole.double(),
            whole.half(),
            value.flatten()[:0],
            value[None],
        )
        return draw.choice((*kin, value.flatten(), torch.zeros(()).expand(3000, 3000), torch.empty(0), whole.long()))
    made = hostile(draw, None if isinstance(value, torch.Tensor) else value)
    return "[" * 3000 if isinstance(made, Raw) else made


def changed_pickle(draw: random.Random, content: bytes) -> bytes:
    """Bytes of the pickle in the archive, whose checksums are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for part in old.infolist():
            data = old.read(part)
            changed = draw.choice(BYTES)(draw, data) if part.filename.endswith("/data.pkl") else data
            new.writestr(part.filename, changed)
    return out.getvalue()


def forged_tensors(_: Path, mutation: Mutation, draw: random.Random, content: bytes) -> bytes:
    """Change what follows the first line, and make its digest anew."""
    payload = mutation(draw, content.partition(b"\n")[2])
    return _HEAD + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


_FORGED: tuple[Mutation, ...] = (*BYTES, *(changed_pickle,) * 3, *(changed_tensors,) * 9)


def _tensors(name: str, path: Callable[[Study], Path], look: Any, **more: Any) -> Format:
    return Format(name, path, look, BYTES, _FORGED, forged_tensors, **more)


_PRETRAINED = _of("done", "../../pretrain/level0/model.pt")
_CHECKPOINT = _of("stopped", paths.CHECKPOINT_FILE)
FORMATS = (
    Format("store", _of("pack", paths.STORE_FILE), store, BYTES, (*BYTES, *(changed_json,) * 8), forged_store),
    _tensors("model.pt", _of("done", paths.MODEL_FILE), model, twin=_bytes("twin", paths.MODEL_FILE)),
    _tensors("pretrained", _PRETRAINED, pretrained),
    _tensors("checkpoint", _CHECKPOINT, checkpoint, twin=_bytes("done", paths.CHECKPOINT_FILE)),
)
