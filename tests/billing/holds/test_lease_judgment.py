"""Which gateways are taken for dead: those whose lease has not changed for its length, by the observer's own clock."""

from datetime import UTC, datetime, timedelta

from billing.database.connection import Database
from billing.holds.lease import GAP_SHARE, Peers
from billing.ledger.leases import LeaseRow, Lost

LEASE_S = 5.0
START = datetime(2026, 1, 1, tzinfo=UTC)


class Watch:
    """Peers with a clock by hand, fed with leases by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.peers = Peers(Database("postgresql:///nowhere"), "own", LEASE_S, lambda: self.now_s)

    def look(self, took_s: float = 0.0, **leases: int | None) -> None:
        """Look now; each lease's value is a number, None where its gateway has ended."""
        begun_s, self.now_s = self.now_s, self.now_s + took_s
        rows = [LeaseRow(name, START + timedelta(seconds=value or 0), value is None) for name, value in leases.items()]
        self.peers.saw(begun_s, [LeaseRow("own", START, False), *rows])

    def look_for(self, seconds: float, **leases: int | None) -> None:
        """Each second, until so many have passed."""
        for _ in range(int(seconds)):
            self.now_s += 1.0
            self.look(**leases)

    def lost(self, *names: str) -> set[str]:
        return set(self.peers.lost(names or ("a", "b")))


class TestJudgment:
    def test_a_lease_that_changes_is_alive_and_one_that_stands_is_not(self) -> None:
        watch = Watch()
        watch.look(a=0, b=0)
        for value in range(1, 5):
            watch.look_for(1, a=value, b=0)
            assert watch.lost() == set()
        watch.look_for(1, a=5, b=0)
        assert watch.lost() == {"b"}
        watch.look_for(1, a=6, b=1)
        assert watch.lost() == set()

    def test_what_a_lease_says_is_of_no_matter(self) -> None:
        """A Postgres whose clock is a day ahead, or goes back."""
        watch = Watch()
        for value in (0, 86_400, 86_401, -5, 7, 6, 5, 4):
            watch.look(a=value)
            watch.now_s += 1.0
        assert watch.lost() == set()

    def test_who_has_just_begun_judges_nobody(self) -> None:
        watch = Watch()
        assert watch.lost() == set()
        watch.look(a=0)
        watch.now_s += 1.0
        assert watch.lost() == set()

    def test_a_gap_of_its_own_begins_all_judgments_anew(self) -> None:
        """It was frozen, or Postgres was away for everybody."""
        watch = Watch()
        watch.look(a=0)
        watch.look_for(4, a=0)
        watch.now_s += LEASE_S * GAP_SHARE + 0.1
        watch.look(a=0)
        assert watch.lost() == set()
        watch.look_for(4, a=0)
        assert watch.lost() == set()
        watch.look_for(1, a=0)
        assert watch.lost() == {"a"}

    def test_who_has_not_looked_of_late_judges_nobody(self) -> None:
        watch = Watch()
        watch.look(a=0)
        watch.look_for(6, a=0)
        assert watch.lost() == {"a"}
        watch.now_s += LEASE_S * GAP_SHARE + 0.1
        assert watch.lost() == set()

    def test_a_slow_look_shortens_what_was_seen(self) -> None:
        watch = Watch()
        watch.look(2.0, a=0)  # read at the beginning or at the end, who knows
        watch.look_for(4, a=0)
        watch.look(1.0, a=0)
        assert watch.lost() == set()
        watch.look_for(1, a=0)
        assert watch.lost() == {"a"}

    def test_whoever_has_ended_is_lost_at_once(self) -> None:
        watch = Watch()
        watch.look(a=0, b=0)
        assert watch.peers.saw_end("a")
        assert not watch.peers.saw_end("a")
        assert watch.lost() == {"a"}
        watch.look(a=1, b=1)  # it renews: it lives after all
        assert watch.lost() == set()

    def test_a_gateway_without_a_lease_is_watched_first(self) -> None:
        """Postgres may have been restored from a backup: a gateway that lives renews, and is there again."""
        watch = Watch()
        watch.look()
        assert watch.lost("a") == set()
        watch.look_for(4)
        assert watch.lost("a") == set()
        watch.look_for(2)
        assert watch.peers.lost(["a"]) == {"a": Lost("a", None)}
        watch.look_for(1, a=1)
        assert watch.lost("a") == set()

    def test_nobody_judges_itself(self) -> None:
        watch = Watch()
        watch.look()
        watch.look_for(20)
        assert watch.lost("own") == set()
