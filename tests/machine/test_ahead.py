"""Reading ahead: many at once, in order, few in memory, and errors where their results would be."""

import threading
import time

import pytest

from panoptic_jax.machine import ahead


def test_what_waits_is_read_at_once_and_comes_in_order():
    """64 files of 50 ms are 3.2 s one after another and 0.2 s by 16 threads."""

    def read(number):
        time.sleep(0.05)
        return number**2

    started = time.monotonic()
    assert list(ahead.in_order(read, range(64))) == [number**2 for number in range(64)]
    assert time.monotonic() - started < 64 * 0.05 / 2


def test_few_results_wait():
    begun, lock = [], threading.Lock()

    def read(number):
        with lock:
            begun.append(number)
        return number

    for taken, number in enumerate(ahead.in_order(read, range(500))):
        assert number == taken
        assert len(begun) <= taken + 2 * ahead.THREADS


def test_an_error_comes_in_its_place_and_keeps_its_words():
    def read(name):
        if name == 'b.png':
            raise ValueError(f'{name} is damaged.')
        return name

    results = ahead.in_order(read, ['a.png', 'b.png', 'c.png'])
    assert next(results) == 'a.png'
    with pytest.raises(ValueError, match=r'b\.png is damaged'):
        next(results)


def test_what_is_not_begun_is_left_out_when_the_caller_stops():
    begun = []

    def read(number):
        begun.append(number)
        time.sleep(0.01)
        return number

    results = ahead.in_order(read, range(1000))
    assert next(results) == 0
    results.close()
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count <= 2 * ahead.THREADS
