"""The errors a user can mend.

VtbenchError
├── CardError      a card is missing, unreadable or inconsistent, or its network can't be had or compiled here
├── WeightsError   a weight file is missing, damaged or does not fit its network
├── DataError      a picture or a data set can't be read or doesn't fit the task
│   └── NoMemoryError  a device has no memory for a batch
├── ChangedError   pictures changed or vanished while a run read them
├── ResultError    a result can't be read, written or compared
└── ToldError      what another process of a team has said already
    └── RefusedError   of one tokenizer alone

The command line prints such an error as one line and ends with exit code 2; anything else is a bug, shows its traceback
and ends with 3. A message says what was wrong, what was expected and what to do next.
"""

from collections.abc import Collection


class VtbenchError(Exception):
    """Something the user can mend."""


class CardError(VtbenchError):
    """A card is missing, unreadable or inconsistent, or its network can't be had or compiled here."""


class WeightsError(VtbenchError):
    """A weight file is missing, damaged or does not fit its network."""


class DataError(VtbenchError):
    """A picture or a data set can't be read or doesn't fit the task."""


class NoMemoryError(DataError):
    """A device has no memory left for a batch; a smaller one may fit."""


class ChangedError(VtbenchError):
    """Pictures changed or vanished since their digest was computed; the whole run ends, never one picture alone."""


class ResultError(VtbenchError):
    """A result can't be read, written or compared."""


class ToldError(VtbenchError):
    """What rank 0 of a team of processes says; the others end with it and say nothing."""


class RefusedError(ToldError):
    """What is wrong with one tokenizer, as another process of a team said; the next tokenizer may go on."""


OF_ONE = (CardError, WeightsError, DataError, RefusedError)
"""What is wrong with one tokenizer, or with it and its pictures: the others of a command go on."""


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """Say that no card or metric is called so, what was perhaps meant, and what lists all of them."""
    return f"no {what} is called {name!r}; {meant(name, known)}`vtbench list {what}s` shows all {len(known)} names"


def meant(name: str, known: Collection[str]) -> str:
    """Ask whether one of the known names was meant, whatever its case and dashes; empty where none is near."""
    import difflib

    folded: dict[str, list[str]] = {}
    for other in sorted(known):
        folded.setdefault(_folded(other), []).append(other)
    wanted = _folded(name)
    near = [other for other in folded if other.startswith(wanted)]
    near = near or difflib.get_close_matches(wanted, folded, n=3, cutoff=0.5)
    close = [other for form in near for other in folded[form]]
    return f"did you mean {', '.join(close[:5])}? " if close else ""


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")
