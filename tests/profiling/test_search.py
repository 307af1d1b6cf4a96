"""The largest number that fits, with few questions."""

import pytest

from bdia.profiling.search import largest_that_fits


def ask(need, budget, starts, **limits):
    """(answer, numbers asked for)"""
    asked = []
    answer = largest_that_fits(lambda n: asked.append(n) or need(n), budget, starts, **limits)
    assert len(asked) == len(set(asked))
    return answer, asked


@pytest.mark.parametrize("start", [1, 7, 128, 4000])
@pytest.mark.parametrize("budget", [120, 1000, 99_999])
def test_on_a_line_questions_are_few_and_the_answer_and_the_next_are_among_them(start, budget):
    answer, asked = ask(lambda n: 100 + 13 * n, budget, [start])
    assert answer == (budget - 100) // 13
    assert {answer, answer + 1} <= {*asked, 0}
    assert len(asked) <= (5 if answer < 64 * start else 7)


@pytest.mark.parametrize(
    "need",
    [
        lambda n: n * n,
        lambda n: max(50, 3 * n - 100),
        lambda n: 100 + 3 * min(n, 40) + 20 * max(0, n - 40),
        lambda n: 64 * (n // 64),
        lambda n: n**0.5,
    ],
)
@pytest.mark.parametrize("budget", [1, 63, 200, 777])
def test_off_the_line_the_answer_is_the_same_and_questions_stay_few(need, budget):
    answer, asked = ask(need, budget, [10], most=10_000)
    assert answer == max((n for n in range(1, 10_001) if need(n) <= budget), default=0)
    assert len(asked) <= 25


def test_limits_hold():
    assert ask(lambda n: 0, 1, [3], least=0, most=6)[0] == 6
    assert ask(lambda n: 2, 1, [1], least=0, most=6)[0] == -1
    assert ask(lambda n: n + 1, 1, [1], least=0, most=6)[0] == 0


def test_a_need_that_falls_below_the_start_does_not_hide_what_fits():
    assert ask(lambda n: 12 if n == 0 else 10 + n, 14, [1], least=0, most=6)[0] == 4  # keep=0 may need more than keep=1
