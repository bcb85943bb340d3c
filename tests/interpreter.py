"""Triton's interpreter, without most of the time that it takes, and with any numpy."""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

from functools import cache
from typing import Any


@cache
def shorten_calls() -> None:
    """Have the interpreter replace Triton's language once per launch and module, as a launch is undone, too.

    By itself it looks through the whole language again at every call of a device function, `tl.sum` among them, to find
    that all is replaced: four fifths of a small kernel's time. Where a release of Triton does it otherwise, it is left.

    Triton 3.6 counts loops by int(array of one number), which numpy 2.5 refuses.
    """
    from triton.runtime import interpreter

    replace, launch = getattr(interpreter, "_patch_lang", None), interpreter.GridExecutor.__call__
    if replace is None:
        return
    replaced: set[int] = set()
    replace_tensors = interpreter._patch_lang_tensor

    def replace_numbers(tensor: Any, scope: Any) -> None:
        replace_tensors(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def replace_once(function: Any) -> Any:
        module = id(function.__globals__)
        if module in replaced:
            return None  # a device function's call drops what a launch keeps
        replaced.add(module)
        return replace(function)

    def launch_anew(self: Any, *args: Any, **kwargs: Any) -> Any:
        replaced.clear()
        return launch(self, *args, **kwargs)

    interpreter._patch_lang, interpreter._patch_lang_tensor = replace_once, replace_numbers
    interpreter.GridExecutor.__call__ = launch_anew
