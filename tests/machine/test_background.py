"""Work behind the back of a loop: order, limits, and errors that surface."""

import threading

import pytest

from panoptic_jax.machine.background import background


def test_calls_run_in_order_and_are_done_at_the_end():
    done = []
    with background(2) as behind:
        for number in range(20):
            behind.call(done.append, number)
    assert done == list(range(20))


def test_the_loop_waits_where_too_much_is_not_finished():
    gate, begun = threading.Event(), []

    def wait(number):
        begun.append(number)
        assert gate.wait(60)

    with background(2) as behind:
        behind.call(wait, 0)
        behind.call(wait, 1)
        timer = threading.Timer(0.2, gate.set)
        timer.start()
        behind.call(wait, 2)  # only after the first
        assert gate.is_set()
    assert begun == [0, 1, 2]


def test_what_goes_wrong_behind_is_raised_in_the_loop():
    done = []

    def fail():
        raise ValueError('The disk is full.')

    def loop():
        with background(1) as behind:
            behind.call(fail)
            behind.call(done.append, 1)

    with pytest.raises(ValueError, match='The disk is full'):
        loop()
    assert done == []


def test_what_was_handed_over_is_done_where_the_loop_fails():
    done = []

    def loop():
        with background(3) as behind:
            behind.call(done.append, 1)
            behind.call(done.append, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert done == [1, 2]
