"""Whoever waits for the other ranks sees that one has ended, and waits on for one that is only slow."""

import threading
from pathlib import Path

from cluster.meeting import code_in_vain, while_all_come
from cluster.records import write_json
from cluster.signals import STOP_FILE_VARIABLE


def has_ended(attempt: Path, rank: int, code: int) -> None:
    write_json(attempt / f"rank-{rank:05d}.json", {"rank": rank, "code": code, "ended_at": 1.0})


def test_a_peer_that_ends_while_the_others_meet_ends_them(tmp_path: Path) -> None:
    for code, own in ((2, 143), (75, 75)):
        attempt, ended, codes = tmp_path / str(code), threading.Event(), list[int]()

        def end(code: int, ended: threading.Event = ended, codes: list[int] = codes) -> None:
            codes.append(code)
            ended.set()

        with while_all_come(1, {STOP_FILE_VARIABLE: str(attempt / "stop")}, end, poll_s=0.01):
            has_ended(attempt, 0, code)
            assert ended.wait(60)
        assert codes == [own] == [code_in_vain(code)]


def test_who_has_met_is_not_watched_any_more(tmp_path: Path) -> None:
    codes: list[int] = []
    for env in ({STOP_FILE_VARIABLE: str(tmp_path / "stop")}, {}):
        with while_all_come(1, env, codes.append, poll_s=0.01):
            pass
        has_ended(tmp_path, 0, 2)
    with while_all_come(1, {}, codes.append, poll_s=0.01):
        pass
    assert codes == []
    assert not [thread for thread in threading.enumerate() if thread.name == "meeting"]
