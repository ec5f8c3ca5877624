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


def unknown(what: str, name: str, known: list[str]) -> str:
    """Say that no card or metric is called so, what was perhaps meant, and what lists all of them."""
    import difflib

    starts = sorted(other for other in known if other.startswith(name))
    close = starts or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close[:5])}? " if close else ""
    return f"no {what} is called {name!r}; {hint}`vtbench list {what}s` shows all {len(known)} names"
