"""Grade each pair of probe and answer once in the life of a process.

A base is graded beside every form adapted from it, and many answers are the same sentence. A grader's label depends on
the pair alone (`onnx` proves that for its batches), so the first one holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from evaluators.graders.interface import Graded, Grader, GraderIdentity, GradingItem, NotGraded, Progress


class RememberedGrader:
    """A grader that remembers its labels. A failure to label is not remembered: it may have been the moment's.

    Args:
        grader: What labels.
        entries: Most pairs to remember; the longest unused go first.
    """

    def __init__(self, grader: Grader, entries: int = 200_000) -> None:
        self._grader = grader
        self._entries = entries
        self._known: OrderedDict[GradingItem, Graded] = OrderedDict()

    @property
    def identity(self) -> GraderIdentity:
        """The grader's own: remembering changes no label."""
        return self._grader.identity

    def grade(self, items: Sequence[GradingItem], progress: Progress) -> list[Graded | NotGraded]:
        """See `Grader.grade`."""
        unknown = list(dict.fromkeys(item for item in items if item not in self._known))
        ready = len(items) - len(unknown)
        fresh: dict[GradingItem, Graded | NotGraded] = {}
        if unknown:
            outcomes = self._grader.grade(unknown, lambda done, _: progress(ready + done, len(items)))
            fresh = dict(zip(unknown, outcomes, strict=True))
        else:
            progress(len(items), len(items))
        labelled = [fresh.get(item) or self._known[item] for item in items]
        for item, outcome in zip(items, labelled, strict=True):
            if isinstance(outcome, Graded):
                self._known[item] = outcome
                self._known.move_to_end(item)
        while len(self._known) > self._entries:
            self._known.popitem(last=False)
        return labelled
