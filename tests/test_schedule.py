"""The schedule: when a run validates, saves and ends, and its learning rate, with a clock that only the test advances."""

import pytest

from charrnn.headers import Counters, Metrics
from charrnn.training.schedule import VALIDATIONS, WARM_UP, Schedule, anneal


def at(step, learned=0, train_bits=2.0):
    """Counters at this step."""
    return Counters(step=step, characters=learned, train_bits=train_bits)


def validated(step, seconds, learning_rate=0.01):
    """A validation at this step."""
    figures = dict(train_bits_per_character=2.0, validation_bits_per_character=2.0, learning_rate=learning_rate)
    return Metrics(step=step, characters=0, seconds=seconds, **figures)


def simulate(schedule, *, per_step, per_validation=0.0, per_save=0.0, step=0, per_batch=100, begun=0.0, most=200_000):
    """Run a schedule to its end. Returns: (clock, step, fractions of validations, times of saves between them)."""
    clock = begun
    first = step
    schedule.begin(clock, at(step), save_seconds=per_save / 4)
    validations, saves = [], []
    for _ in range(most):
        if schedule.is_validation_due:
            clock += per_validation + per_save
            validations.append(schedule.fraction)
            schedule.note_validation(clock, per_save)
        elif schedule.is_save_due:
            clock += per_save
            saves.append(clock)
            schedule.note_save(per_save)
        if schedule.is_over:
            break
        clock += per_step
        step += 1
        schedule.advance(clock, at(step, (step - first) * per_batch))
    return clock, step, validations, saves


@pytest.mark.parametrize(
    ("fraction", "step", "rate"),
    [
        (0.0, 0, 0.1),  # the first step knows no fraction yet: it is a tenth
        (WARM_UP / 2, 1, 0.5 * (1 - WARM_UP / 2)),
        (WARM_UP, 1, 1 - WARM_UP),
        (0.5, 1, 0.5),
        (0.75, 1, 0.25),
        (1.0, 1, 0.0),
        (1.2, 1, 0.0),  # past its end, never below zero
    ],
)
def test_the_learning_rate_rises_and_then_falls_in_a_line_to_zero(fraction, step, rate):
    assert anneal(0.02, fraction=fraction, step=step) == pytest.approx(0.02 * rate)


@pytest.mark.parametrize(("steps", "step", "fraction"), [(100, 0, 0.0), (100, 25, 0.25), (100, 100, 1.0), (2.5, 1, 0.4)])
def test_the_fraction_of_a_run_of_steps_is_that_of_its_steps_whatever_the_time(steps, step, fraction):
    schedule = Schedule(steps=steps, validation_size=1_000_000, vocabulary_size=50_000)
    schedule.begin(1000.0, at(step), save_seconds=99.0)
    assert schedule.fraction == fraction


def test_the_fraction_of_a_run_for_a_time_leaves_room_for_the_last_validation():
    schedule = Schedule(seconds=100.0, validation_size=1_000)
    schedule.begin(0.0, at(0), save_seconds=0.0)
    schedule.advance(45.0, at(10, 1_000))
    schedule.note_validation(clock=50.0, save_seconds=0.0)  # it took 5 seconds
    schedule.advance(50.0, at(11, 1_100))
    assert schedule.fraction == pytest.approx(50 / (100 - 1.1 * 5))
    assert schedule.seconds_left == pytest.approx(100 - 1.1 * 5 - 50)


def test_no_more_than_a_fifth_of_the_time_is_kept_for_the_last_validation():
    schedule = Schedule(seconds=100.0, validation_size=1_000)
    schedule.begin(0.0, at(0), save_seconds=0.0)
    schedule.advance(10.0, at(1, 100))
    schedule.note_validation(clock=70.0, save_seconds=0.0)
    schedule.advance(70.0, at(2, 200))
    assert schedule.fraction == pytest.approx(70 / 80)


@pytest.mark.parametrize("seconds", [10, 60, 300, 1_200, 3_600, 36_000])
@pytest.mark.parametrize(("per_step", "per_validation"), [(0.01, 0.02), (0.05, 0.3), (0.5, 2.0)])
def test_a_run_for_a_time_ends_on_time_with_its_last_validation(seconds, per_step, per_validation):
    scale = max(1.0, seconds / 600)  # not a million steps for ten hours
    step_seconds = per_step * scale
    size = int(3 * per_validation / (step_seconds / 100))  # of which each character takes a third of what learning one takes
    schedule = Schedule(seconds=seconds, validation_size=size, vocabulary_size=65)
    clock, _, validations, _ = simulate(schedule, per_step=step_seconds, per_validation=per_validation, per_save=0.01)
    assert clock + per_validation <= seconds + step_seconds + 0.01  # the last validation comes after this
    assert clock + per_validation >= 0.93 * seconds - 2 * step_seconds
    assert len(validations) <= VALIDATIONS


@pytest.mark.parametrize("seconds", [10, 60, 600, 36_000])
@pytest.mark.parametrize("per_validation", [0.05, 0.5, 2.0, 30.0])
def test_slow_validations_take_a_twentieth_of_the_time_at_most(seconds, per_validation):
    schedule = Schedule(seconds=seconds, validation_size=10_000, vocabulary_size=65)
    _, _, validations, _ = simulate(schedule, per_step=seconds / 5_000, per_validation=per_validation)
    spent = (len(validations) + 1) * per_validation  # with the last one
    assert spent <= max(0.05 * seconds, 2 * per_validation)  # one during the run and one at its end are the least
    assert validations == sorted(validations)


@pytest.mark.parametrize("per_save", [0.1, 1.0, 5.0, 20.0])
def test_slow_saves_take_a_fiftieth_of_the_time(per_save):
    schedule = Schedule(seconds=3_600.0, validation_size=0)
    _, _, validations, saves = simulate(schedule, per_step=0.5, per_save=per_save)
    assert len(saves) * per_save <= 0.02 * 3_600 + per_save
    assert len(validations) * per_save <= 0.02 * 3_600 + per_save


LONG = dict(characters=1e6, speed=1e3)  # steps so long that no validation is reckoned to take a share of them


@pytest.mark.parametrize(("steps", "validations"), [(1, 0), (5, 4), (20, 19), (21, 19), (1_000, 19)])
def test_a_run_of_steps_validates_at_each_twentieth_and_at_its_end(steps, validations):
    """The last validation, at the end, is not counted."""
    clock, step, found, _ = simulate(Schedule(steps=steps, validation_size=1, **LONG), per_step=0.01)
    assert (step, len(found)) == (steps, validations)
    assert clock == pytest.approx(0.01 * steps)


@pytest.mark.parametrize("vocabulary_size", [65, 60_000])
@pytest.mark.parametrize("steps", [10, 100, 1_000, 10_000])
def test_validations_of_a_run_of_steps_take_a_twentieth_of_it_or_a_second_by_what_they_are_reckoned_to_cost(
    steps, vocabulary_size
):
    speed, size = 100_000, 30_000
    schedule = Schedule(steps=steps, validation_size=size, vocabulary_size=vocabulary_size, characters=2_000, speed=speed)
    each = 0.02 + size * (1 / speed / 3 + vocabulary_size / 1.5e8)
    _, _, found, _ = simulate(schedule, per_step=0.001, per_validation=9.0)  # whatever they take: no clock has a say
    assert (len(found) + 1) * each <= max(0.05 * steps * 2_000 / speed, 1.0, each)
    assert found == pytest.approx([(k + 1) / (len(found) + 1) for k in range(len(found))], abs=0.05)
    assert len(found) < VALIDATIONS


def test_the_state_is_saved_every_half_minute_and_a_validation_counts_as_a_save():
    schedule = Schedule(steps=10_000)
    schedule.begin(0.0, at(0), save_seconds=0.1)
    due = []
    for second in range(1, 200):
        schedule.advance(float(second), at(1, 0))
        if second == 50:
            schedule.note_validation(clock=50.0, save_seconds=0.1)
        if schedule.is_save_due:
            due.append(second)
            schedule.note_save(0.1)
    assert due == [31, 81, 112, 143, 174]


def test_a_resumed_run_goes_on_where_it_was_and_does_not_validate_again():
    whole = simulate(Schedule(steps=100, validation_size=1, **LONG), per_step=0.1)
    half = Schedule(steps=100, validation_size=1, earlier=5.0, last=validated(50, 5.0), **LONG)
    resumed = simulate(half, per_step=0.1, step=50)
    assert resumed[1] == whole[1] == 100
    assert resumed[2] == [fraction for fraction in whole[2] if fraction > 0.5]


@pytest.mark.parametrize("seconds", [10, 600, 36_000])
def test_a_resumed_run_for_a_time_counts_the_earlier_sittings(seconds):
    last = validated(600, 0.6 * seconds)
    schedule = Schedule(seconds=seconds, validation_size=100, earlier=0.6 * seconds, last=last)
    clock, _, validations, _ = simulate(schedule, per_step=seconds / 1_000, per_validation=0.01, step=600)
    assert 0.4 * seconds - 0.3 - 2 * seconds / 1_000 <= clock <= 0.4 * seconds + seconds / 1_000
    assert all(fraction > 0.6 for fraction in validations)


def test_however_short_its_time_a_run_makes_one_step():
    schedule = Schedule(seconds=1.0)
    schedule.begin(10.0, at(0), save_seconds=0.0)
    assert schedule.fraction > 1
    assert not schedule.is_over
    schedule.advance(10.1, at(1, 100))
    assert schedule.is_over


@pytest.mark.parametrize(
    ("options", "step", "train_bits", "why"),
    [
        ({}, 50, 2.0, "interrupted"),
        ({}, 50, 0.01, "memorized"),
        ({"validation_size": 9}, 50, 0.01, "interrupted"),  # by text that is held out the run may still get better
        ({"max_steps": 50}, 50, 2.0, "max epochs"),
        ({"seconds": 10.0}, 50, 2.0, "time"),
        ({"seconds": None, "steps": 50}, 50, 2.0, "steps"),
        ({"seconds": None, "steps": 51}, 50, 0.01, "interrupted"),
    ],
)
def test_a_run_knows_why_it_is_over(options, step, train_bits, why):
    schedule = Schedule(**{"seconds": 100.0} | options)
    schedule.begin(0.0, at(0), save_seconds=0.0)
    schedule.advance(10.0, at(step, 5_000, train_bits))
    assert schedule.is_over == (why != "interrupted")
    assert schedule.why == why


@pytest.mark.parametrize(
    ("step", "rate", "same", "over"),
    [(70, 0.0, True, True), (70, 0.0, False, False), (71, 0.0, True, False), (70, 0.1, True, False)],
)
def test_a_run_that_had_come_to_its_end_is_over_when_it_is_resumed_to_the_same_length(step, rate, same, over):
    """Even if time is left because the last validation was faster than expected."""
    schedule = Schedule(seconds=100.0, earlier=90.0, last=validated(70, 90.0, learning_rate=rate), same=same)
    schedule.begin(1.0, at(step), save_seconds=0.0)
    assert schedule.is_over == over


def test_samples_come_after_a_second_and_then_ever_later_and_a_validation_counts_as_one():
    schedule = Schedule(steps=10_000)
    schedule.begin(5.0, at(0), save_seconds=0.0)
    due = []
    for eighth in range(1, 1_000):
        clock = 5 + eighth / 8
        schedule.advance(clock, at(eighth))
        if eighth == 400:
            schedule.note_validation(clock=clock, save_seconds=0.0)
        if schedule.is_sample_due:
            due.append(eighth)
            schedule.note_sample(clock)
    assert due == [9, 28, 85, 256]


def test_progress_is_due_several_times_a_second_with_the_speed_of_this_sitting():
    schedule = Schedule(steps=100, earlier=1000.0)
    schedule.begin(2.0, at(50), save_seconds=0.0)
    assert schedule.characters_per_second == 0.0
    schedule.advance(2.15, at(51, 300))
    assert not schedule.is_progress_due
    schedule.advance(2.5, at(52, 1_000))
    assert schedule.is_progress_due
    assert schedule.characters_per_second == pytest.approx(2_000)
    assert schedule.seconds_spent == 1002.5
    schedule.note_progress()
    assert not schedule.is_progress_due


def test_one_slow_validation_does_not_make_a_run_end_long_before_its_time():
    schedule = Schedule(seconds=900.0, validation_size=100_000, vocabulary_size=65)
    schedule.begin(0.0, at(0), save_seconds=0.1)
    schedule.advance(400.0, at(100, 100_000))
    for clock, took in ((400.0, 3.0), (500.0, 3.0), (600.0, 32.0)):  # the machine was busy at the last one
        schedule.advance(clock, at(int(clock), int(1000 * clock)))
        schedule.note_validation(clock + took, 0.1)
    schedule.advance(895.0, at(900, 900_000))
    assert schedule.fraction < 1
    schedule.advance(897.0, at(901, 901_000))
    assert schedule.fraction >= 1
