import time

import pytest

from slotlab.data.loading import in_order


def test_results_come_in_order_though_work_does_not():
    def slowly(number):
        time.sleep(0.01 if number % 4 == 0 else 0)
        return number * number

    assert list(in_order(slowly, range(40), threads=4)) == [number * number for number in range(40)]


def test_works_only_a_few_items_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items(), threads=2)
    assert next(results) == 0
    assert len(taken) <= 8


def test_an_error_comes_out():
    def fails(number):
        raise ValueError(f"number {number}")

    with pytest.raises(ValueError, match="number 0"):
        list(in_order(fails, range(100), threads=2))
