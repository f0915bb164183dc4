"""The scale of a slider."""

import pytest

from pack.core.dial import Dial, even_dial


def test_between_its_marks_a_dial_is_linear_and_beyond_them_it_goes_on_from_0():
    dial = Dial(((-1.0, -4.0), (0.0, 0.0), (0.5, 0.2), (1.0, 2.0)))
    assert [dial.strength(shown) for shown in (-2.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5)] == pytest.approx(
        [-8.0, -2.0, 0.0, 0.1, 0.2, 1.1, 2.0, 3.0]
    )


def test_0_is_0():
    assert str(Dial(((-0.3, -4.0), (0.0, 0.0), (0.7, 0.1))).strength(-0.0)) == "0.0"


@pytest.mark.parametrize(
    "marks",
    [
        (),
        ((0.0, 0.0),),
        ((-1.0, -1.0), (1.0, 1.0)),
        ((0.0, 0.0), (1.0, 0.0)),
        ((0.0, 0.0), (1.0, 1.0), (1.0, 2.0)),
        tuple((i / 400, i / 400) for i in range(400)),
        ((0.0, 0.0), (1.0, float("nan"))),
    ],
)
def test_other_marks_are_refused(marks):
    with pytest.raises(ValueError, match="a dial has 2 to 201 marks that rise"):
        Dial(marks)


def test_equal_steps_of_an_even_dial_are_equal_lengths_of_the_way():
    """The way of a picture that jumps: nothing up to 1, nearly everything between 1 and 2."""
    strengths, steps = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0], [3.0, 1.0, 0.5, 8.0, 1.5]
    dial = even_dial(strengths, steps, low=-2.0, high=3.0)

    def way(strength):
        gone, at = 0.0, -2.0
        for step, end in zip(steps, strengths[1:], strict=True):
            gone += step * min(max(strength - at, 0.0), end - at) / (end - at)
            at = end
        return gone - 4.0

    shown = [i / 8 for i in range(-8, 9)]
    lengths = [way(dial.strength(x)) for x in shown]
    assert lengths == pytest.approx([(4.0 if x < 0 else 10.0) * x for x in shown])
    assert (dial.strength(-1.0), dial.strength(1.0)) == (-2.0, 3.0)


def test_a_dial_may_have_one_side():
    dial = even_dial([0.0, 1.0, 2.0], [1.0, 1.0], low=0.0, high=2.0)
    assert dial.strength(0.5) == pytest.approx(1.0)
    assert dial.strength(-0.5) == pytest.approx(-1.0)


def test_a_side_on_which_nothing_moves_is_refused():
    with pytest.raises(ValueError, match="from strength 0 to -1 the picture does not change"):
        even_dial([-1.0, 0.0, 1.0], [0.0, 1.0], low=-1.0, high=1.0)
