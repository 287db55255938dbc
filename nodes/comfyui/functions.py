"""Functions of other packs: what they close over, and what was found out about them."""

from collections.abc import Callable
from functools import wraps
from types import FunctionType
from weakref import WeakKeyDictionary


def closure(function: FunctionType) -> dict[str, object]:
    """What a function closes over, by the names of the variables; empty ones are left out."""
    found = {}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:
            pass
    return found


def remembered(default) -> Callable[[Callable], Callable]:
    """Decorates a question about a function, or an object that is called as one.

    The question is asked once for each. Where asking raises, `default` is the answer: objects of
    other packs may do anything.
    """

    def decorate(ask: Callable) -> Callable:
        answers = WeakKeyDictionary()

        @wraps(ask)
        def answer(function):
            try:
                return answers[function]
            except Exception:  # not asked yet; or it has no hash, weak reference or comparison
                pass
            try:
                found = ask(function)
            except Exception:
                found = default
            try:
                answers[function] = found
            except Exception:
                pass
            return found

        return answer

    return decorate
