"""The cache of groups: what it keeps, for how long, how much of it, and what it makes of changes beside reads."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from imserver.directory import group_cache as module
from imserver.directory.group_cache import GroupCache
from imserver.interfaces import Unavailable
from imserver.metrics import Metrics
from imserver.model import Group, Member


def group(group_id: int, size: int = 1, name: str = "") -> Group:
    return Group(7, group_id, 1, name, "", False, dict.fromkeys(range(1, size + 1), Member(0)))


class Kept:
    """A cache, and the reads that it has asked for."""

    def __init__(self, most_members: int = 1000) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.cache = GroupCache(self._read, self.clock.seconds, self.metrics, most_members)
        #: Reads that are not answered yet, in order.
        self.reading: list[tuple[int, Deferred[Group | None]]] = []

    def _read(self, group_id: int) -> Deferred[Group | None]:
        done: Deferred[Group | None] = Deferred()
        self.reading.append((group_id, done))
        return done

    def ask(self, group_id: int) -> list[object]:
        """Ask for a group. Gets the answer when there is one, or the failure."""
        answers: list[object] = []
        found = self.cache.get(group_id)
        if isinstance(found, Deferred):
            found.addBoth(answers.append)
        else:
            answers.append(found)
        return answers

    def answer(self, answer: Group | Failure | None) -> int:
        """Answer the oldest read. Gives the id that it was for."""
        group_id, done = self.reading.pop(0)
        done.callback(answer)
        return group_id

    def load(self, loaded: Group) -> None:
        """Have a group read that is not in the cache."""
        answers = self.ask(loaded.group_id)
        assert self.answer(loaded) == loaded.group_id
        assert answers == [loaded]

    @property
    def counted(self) -> tuple[int, int]:
        """The figures: groups, and their members."""
        return int(self.metrics.cached_groups.read()[""]), int(self.metrics.cached_group_members.read()[""])


def test_one_read_for_all_who_wait() -> None:
    """Whoever asks while a group is read gets what is read, in the order of asking, and whoever asks then gets it at
    once."""
    kept, fifty = Kept(), group(50)
    order: list[int] = []
    for number in range(20):
        found = kept.cache.get(50)
        assert isinstance(found, Deferred)
        found.addCallback(lambda got, number: order.append(number) if got is fifty else None, number)
    other = kept.ask(51)
    assert [group_id for group_id, _ in kept.reading] == [50, 51]
    kept.answer(fifty)
    assert order == list(range(20))
    assert other == []
    assert kept.cache.get(50) is fifty
    assert kept.metrics.group_reads.values == {"": 2}


def test_who_asks_while_others_are_answered() -> None:
    """The group is there already for who asks from a callback."""
    kept, fifty = Kept(), group(50)
    seen: list[object] = []
    found = kept.cache.get(50)
    assert isinstance(found, Deferred)
    found.addCallback(lambda _: seen.append(kept.cache.get(50)))
    kept.answer(fifty)
    assert seen == [fifty]
    assert kept.reading == []


def test_unknown_ids_are_remembered_briefly() -> None:
    """Who makes up ids does not get the database to work, and a group that comes to be is found seconds later."""
    kept = Kept()
    asked = [kept.ask(50), kept.ask(50)]
    kept.answer(None)
    assert asked == [[None], [None]]
    kept.clock.advance(module._UNKNOWN_SECONDS - 0.1)
    assert kept.ask(50) == [None]
    assert kept.reading == []
    kept.clock.advance(0.1)
    again = kept.ask(50)
    kept.answer(group(50))
    assert again != [None]
    assert isinstance(kept.cache.get(50), Group)


def test_unknown_ids_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes; one that was asked for again is not the oldest."""
    monkeypatch.setattr(module, "_MOST_UNKNOWN", 3)
    kept = Kept()
    for number in (1, 2, 3):
        kept.ask(number)
        kept.answer(None)
    kept.clock.advance(module._UNKNOWN_SECONDS)
    kept.ask(1)
    kept.answer(None)
    kept.ask(4)
    kept.answer(None)
    assert list(kept.cache._unknown) == [3, 1, 4]
    assert kept.ask(1) == kept.ask(4) == [None]
    assert kept.reading == []


def test_a_busy_group_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for, so that a change that nobody told of comes to be known."""
    kept = Kept()
    kept.load(group(50, name="old"))
    step = module._KEPT_SECONDS / 10
    for _ in range(9):
        kept.clock.advance(step)
        assert isinstance(kept.cache.get(50), Group)
    kept.clock.advance(step)
    asked = kept.ask(50)
    assert asked == []
    assert kept.counted == (0, 0)
    new = group(50, name="new")
    kept.answer(new)
    assert asked == [new]
    assert kept.cache.get(50) is new


def test_members_are_bounded() -> None:
    """Not the groups alone: the one that was not asked for the longest goes first, and as many as it takes."""
    each = 100 + module._GROUP_COST
    kept = Kept(most_members=3 * each)
    for number in (1, 2, 3):
        kept.load(group(number, 100))
    assert kept.counted == (3, 300)
    assert isinstance(kept.cache.get(1), Group)
    kept.load(group(4, 100))
    assert [isinstance(kept.cache.get(number), Group) for number in (1, 3, 4)] == [True] * 3
    assert kept.ask(2) == []
    kept.answer(None)
    kept.load(group(5, 2 * each - module._GROUP_COST))
    assert kept.counted == (2, 2 * each - module._GROUP_COST + 100)
    assert [isinstance(kept.cache.get(number), Group) for number in (4, 5)] == [True] * 2


def test_empty_groups_are_bounded_too() -> None:
    """A group costs something besides its members."""
    kept = Kept(most_members=100)
    for number in range(1, 101):
        kept.load(group(number, 0))
    groups, members = kept.counted
    assert (groups, members) == (100 // module._GROUP_COST, 0)


def test_a_group_beyond_the_bound() -> None:
    """It is answered but not kept, and drives out nobody; nor does what was kept of it stay when it grows."""
    kept = Kept(most_members=200)
    kept.load(group(1, 50))
    kept.load(group(2, 191))
    assert kept.counted == (1, 50)
    assert isinstance(kept.cache.get(1), Group)
    assert kept.ask(2) == []
    kept.answer(None)
    kept.cache.put(group(1, 191))
    assert kept.counted == (0, 0)
    assert kept.ask(1) == []


def test_a_change_replaces_what_is_kept() -> None:
    """Also one that makes the group larger or smaller, and what was not known to exist."""
    kept = Kept()
    kept.load(group(50, 10))
    for size in (30, 5):
        changed = group(50, size)
        kept.cache.put(changed)
        assert kept.cache.get(50) is changed
        assert kept.counted == (1, size)
    kept.ask(51)
    kept.answer(None)
    made = group(51, 7)
    kept.cache.put(made)
    assert kept.cache.get(51) is made
    assert kept.counted == (2, 12)
    kept.cache.put_unknown(51)
    assert kept.ask(51) == [None]
    assert kept.counted == (1, 5)
    assert kept.reading == []


@pytest.mark.parametrize("read", [group(50, name="old"), None])
@pytest.mark.parametrize("changed", [group(50, name="new"), None])
def test_a_read_beside_a_change_is_not_kept(read: Group | None, changed: Group | None) -> None:
    """Who asked before it gets what was read; who asks after it gets what it made of the group, before and after the
    read comes in."""
    kept = Kept()
    before = kept.ask(50)
    if changed is None:
        kept.cache.put_unknown(50)
    else:
        kept.cache.put(changed)
    assert kept.ask(50) == [changed]
    kept.answer(read)
    assert before == [read]
    assert kept.ask(50) == [changed]
    assert kept.reading == []


def test_a_read_beside_a_change_that_could_not_be_kept() -> None:
    """Who asks after the change does not wait for the read that began before it, and what that reads is not kept."""
    kept, old, new = Kept(most_members=100), group(50, 5), group(50, 6)
    before = kept.ask(50)
    kept.cache.put(group(50, 500))
    after = kept.ask(50)
    assert len(kept.reading) == 2
    kept.answer(old)
    assert (before, after) == ([old], [])
    still = kept.ask(50)
    assert len(kept.reading) == 1
    kept.answer(new)
    assert (after, still) == ([new], [new])
    assert kept.cache.get(50) is new


def test_what_is_forgotten_is_read_again() -> None:
    """Groups, ids that were unknown, and what is being read; forgetting what nobody knows is no error."""
    kept = Kept()
    kept.load(group(50))
    kept.cache.forget(50)
    assert kept.counted == (0, 0)
    first = kept.ask(50)
    kept.cache.forget(50)
    second = kept.ask(50)
    kept.answer(group(50, name="first"))
    kept.answer(None)
    assert second == [None]
    assert isinstance(first[0], Group)
    kept.cache.forget(50)
    assert kept.ask(50) == []
    kept.cache.forget(51)


def test_failures_reach_all_who_wait_and_are_not_kept() -> None:
    """Trouble is not taken for an answer: the next who asks has the group read."""
    kept = Kept()
    asked = [kept.ask(50), kept.ask(50)]
    kept.answer(Failure(Unavailable("away")))
    for (answer,) in asked:
        assert isinstance(answer, Failure)
        assert answer.check(Unavailable)
    assert kept.ask(50) == []
    kept.answer(group(50))
    assert isinstance(kept.cache.get(50), Group)


def test_reads_that_fail_at_once() -> None:
    """A lane that is closed answers before it is left."""
    metrics = Metrics()
    cache = GroupCache(lambda _group_id: fail(Unavailable("closed")), Clock().seconds, metrics, 100)
    for _ in range(2):
        found = cache.get(50)
        assert isinstance(found, Deferred)
        failed: list[Failure] = []
        found.addErrback(failed.append)
        assert failed[0].check(Unavailable)


def test_those_who_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the bound one is refused at once; when others are answered there is room again."""
    monkeypatch.setattr(module, "_MOST_WAITING", 3)
    kept = Kept()
    waiting = [kept.ask(50), kept.ask(50), kept.ask(51)]
    (refused,) = kept.ask(50)
    assert isinstance(refused, Failure)
    assert refused.check(Unavailable)
    (refused,) = kept.ask(52)
    assert isinstance(refused, Failure)
    assert len(kept.reading) == 2
    kept.cache.forget(50)  # those who wait still do
    assert isinstance(kept.ask(50)[0], Failure)
    kept.answer(group(50))
    assert [len(answers) for answers in waiting] == [1, 1, 0]
    assert [kept.ask(50), kept.ask(52)] == [[], []]


class Course:
    """What may happen to a cache, one after the other."""

    def __init__(self) -> None:
        self.kept = Kept(most_members=100)
        #: How often each group was changed; a group's name says after how many changes it was so.
        self.changes: dict[int, int] = {}
        #: Of each read that is not answered, the changes before it.
        self.begun: list[int] = []
        #: Answers, with the changes before each was asked for.
        self.asked: list[tuple[list[object], int]] = []

    def ask(self, group_id: int, _size: int) -> None:
        before = len(self.kept.reading)
        changes = self.changes.get(group_id, 0)
        self.asked.append((self.kept.ask(group_id), changes))
        if len(self.kept.reading) > before:
            self.begun.append(changes)

    def answer(self, _group_id: int, size: int) -> None:
        if self.kept.reading:
            self.kept.answer(group(self.kept.reading[0][0], size, name=str(self.begun.pop(0))))

    def fail(self, _group_id: int, _size: int) -> None:
        if self.kept.reading:
            self.begun.pop(0)
            self.kept.answer(Failure(Unavailable("away")))

    def put(self, group_id: int, size: int) -> None:
        self.changes[group_id] = self.changes.get(group_id, 0) + 1
        self.kept.cache.put(group(group_id, size, name=str(self.changes[group_id])))

    def put_unknown(self, group_id: int, _size: int) -> None:
        self.changes[group_id] = self.changes.get(group_id, 0) + 1
        self.kept.cache.put_unknown(group_id)

    def forget(self, group_id: int, _size: int) -> None:
        self.kept.cache.forget(group_id)

    def wait(self, group_id: int, _size: int) -> None:
        self.kept.clock.advance(200 * group_id)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Course.ask, Course.ask, Course.answer, Course.fail, Course.put, Course.put_unknown])
            | st.sampled_from([Course.forget, Course.wait]),
            st.integers(1, 4),
            st.integers(0, 60),
        ),
        max_size=60,
    )
)
def test_nobody_sees_what_a_change_overruled(steps: list[tuple[Callable[[Course, int, int], None], int, int]]) -> None:
    """In any order of reads, changes and time: who asks after a change sees it or what was read after it, the bound
    holds, the figures are right, and everybody is answered once."""
    course = Course()
    for step, group_id, size in steps:
        step(course, group_id, size)
        groups = [found for found, _until in course.kept.cache._groups.values()]
        assert sum(len(found.members) + module._GROUP_COST for found in groups) <= 100
        assert course.kept.counted == (len(groups), sum(len(found.members) for found in groups))
    while course.kept.reading:
        course.answer(0, 1)
    for answers, changes in course.asked:
        (answer,) = answers
        assert not isinstance(answer, Group) or int(answer.name) >= changes
