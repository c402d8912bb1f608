"""What the scheduler does next: pure, and always leading to the end."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.job import JobState
from pipeline.actions import Evaluate, GiveUp, Prepare, Promote, Prune, PruneRemote, State, Train, next_actions

DONE = State(
    has_corpus=True,
    job=JobState.SUCCEEDED,
    progressed=True,
    total_steps=30,
    saved=(0, 10, 20, 30),
    evaluated=frozenset({0, 10, 20, 30}),
    evaluates=True,
    decided=frozenset({10, 20, 30}),
    promotes=True,
    protected=frozenset(),
    keep_last=4,
)


def test_nothing_to_do_when_all_is_done() -> None:
    assert next_actions(DONE) == ()
    assert next_actions(replace(DONE, job=None)) == ()


def test_the_stages_follow_each_other() -> None:
    fresh = replace(DONE, has_corpus=False, job=None, saved=(), evaluated=frozenset(), decided=frozenset())
    assert next_actions(fresh) == (Prepare(),)
    assert next_actions(replace(fresh, has_corpus=True)) == (Train(),)
    training = replace(fresh, has_corpus=True, job=JobState.RUNNING)
    assert next_actions(training) == ()
    assert next_actions(replace(training, saved=(0, 10))) == (Evaluate(0),)
    assert next_actions(replace(training, saved=(0, 10), evaluating=0)) == ()
    assert next_actions(replace(training, saved=(0, 10), evaluated=frozenset({0, 10}))) == (Promote(10),)


def test_a_stopped_or_progressing_job_is_started_again_and_a_hopeless_one_is_not() -> None:
    died = replace(DONE, job=JobState.FAILED, saved=(0, 10), evaluated=frozenset({0, 10}), decided=frozenset({10}))
    assert next_actions(died) == (Train(),)
    assert next_actions(replace(died, job=JobState.STOPPED, progressed=False)) == (Train(),)
    assert next_actions(replace(died, progressed=False)) == (GiveUp(),)
    # What it saved before is looked at first.
    assert next_actions(replace(died, progressed=False, decided=frozenset())) == (Promote(10),)


def test_a_job_that_cannot_be_seen_is_waited_for() -> None:
    unseen = replace(DONE, job=JobState.UNKNOWN, saved=(0, 10), evaluated=frozenset({0, 10}), decided=frozenset({10}))
    assert next_actions(unseen) == ()


def test_an_evaluation_that_failed_is_not_repeated_forever() -> None:
    state = replace(DONE, evaluated=frozenset({0, 10, 30}), failed=frozenset({20}))
    assert next_actions(state) == ()


def test_pruning_spares_what_is_waited_for() -> None:
    crowded = replace(DONE, keep_last=1, protected=frozenset({10}), evaluated=frozenset({10, 20, 30}))
    assert next_actions(crowded) == (Evaluate(0), Prune((20,)))
    assert next_actions(replace(crowded, evaluated=DONE.evaluated)) == (Prune((0, 20)),)
    set_aside = ("step-00000010.corrupt", "step-00000020.rewound-1", "step-00000020.rewound-2")
    assert next_actions(replace(DONE, set_aside=set_aside)) == (Prune((), set_aside[1:2]),)
    assert next_actions(replace(DONE, set_aside=set_aside, doubted=frozenset({20}))) == (), "the remote may have it"
    half = (".step-00000010.deleting",)
    assert next_actions(replace(DONE, half_deleted=half)) == (Prune((), (), half),), "protected or not: it is no more"


def test_both_tiers_are_pruned_by_what_each_of_them_has() -> None:
    stored = replace(DONE, keep_last=2, uploaded=frozenset({0, 10, 20}))
    assert next_actions(stored) == (Prune((0, 10)), PruneRemote((0,)))
    assert next_actions(replace(stored, keep_local=1)) == (Prune((0, 10, 20)), PruneRemote((0,)))
    assert next_actions(replace(stored, protected=frozenset({0}))) == (Prune((10,)),)
    waiting = replace(stored, evaluated=frozenset({10, 20, 30}), evaluating=0, keep_local=1)
    assert next_actions(waiting) == (Prune((10, 20)),), "what is to be evaluated stays here, and there"


@st.composite
def states(draw: st.DrawFn) -> State:
    saved = tuple(range(0, draw(st.integers(0, 4)) * 10, 10))
    subset = st.frozensets(st.sampled_from(saved)) if saved else st.just(frozenset())
    evaluated = draw(subset)
    return State(
        has_corpus=draw(st.booleans()),
        job=draw(st.sampled_from([None, *JobState])),
        progressed=draw(st.booleans()),
        total_steps=30,
        saved=saved,
        evaluated=evaluated,
        evaluates=draw(st.booleans()),
        decided=frozenset(step for step in draw(subset) if step in evaluated),
        promotes=draw(st.booleans()),
        protected=draw(subset),
        keep_last=draw(st.integers(1, 3)),
        keep_local=draw(st.integers(1, 3) | st.none()),
        uploaded=draw(st.frozensets(st.sampled_from([0, 10, 20, 30, 40]))),
        evaluating=draw(st.sampled_from([None, *saved])),
        failed=draw(subset),
    )


@given(states())
def test_no_action_ever_hurts(state: State) -> None:
    actions = next_actions(state)
    for action in actions:
        match action:
            case Train():
                assert state.has_corpus
                assert state.job not in (JobState.RUNNING, JobState.PENDING, JobState.UNKNOWN)
            case Evaluate(step):
                assert step in state.saved
                assert step not in state.evaluated
            case Promote(step):
                assert step in state.evaluated
                assert step > 0
            case Prune(steps):
                assert state.saved[-1] not in steps
                assert not {*steps} & {*state.protected}
                if state.evaluates:
                    assert {*steps} <= {*state.evaluated}
                newest = {*state.saved[-state.keep_last :]}
                assert {*steps} & newest <= state.uploaded
            case PruneRemote(steps):
                assert {*steps} <= state.uploaded
                assert max(state.uploaded) not in steps
                assert not {*steps} & {*state.protected}
