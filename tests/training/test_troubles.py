"""Which losses are forgiven, and what is told of them."""

import math

import pytest

from segkit.errors import UserError
from segkit.training.troubles import MOST_IN_A_ROW, Troubles, is_lost, usable

NAN = math.nan


def test_some_losses_may_be_no_numbers():
    assert usable([1.0, NAN, 2.0], Troubles(), best=None) == [1.0, 2.0]


@pytest.mark.parametrize(
    "losses", [[NAN], [1.0, NAN], [NAN, NAN, 1.0], [1.0] * 100 + [NAN] * MOST_IN_A_ROW]
)
def test_most_may_not_nor_all_of_the_last(losses):
    troubles = Troubles()
    troubles.leave_out(("a", "b", "b"))
    troubles.leave_out(("b",))
    with pytest.raises(UserError, match=r"no longer a number; cases .*: b in 2, a in 1") as error:
        usable(losses, troubles, best=None)
    assert "best.pt" not in str(error.value)
    with pytest.raises(UserError, match=r"best\.pt holds the best weights so far"):
        usable(losses, troubles, best=0.5)


def test_a_run_is_lost_after_many_useless_steps_in_a_row():
    assert not is_lost([NAN] * (MOST_IN_A_ROW - 1))
    assert not is_lost([*[NAN] * MOST_IN_A_ROW, 1.0])
    assert is_lost([1.0, *[NAN] * MOST_IN_A_ROW])


def test_an_epoch_is_told_of_in_a_line_each(caplog):
    troubles = Troubles(rescued=3, stalled=1)
    troubles.leave_out(("a",))
    troubles.tell(7)
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 7: in 3 batches half precision overflowed; computed in fp32",
        "epoch 7: the loss of 1 batches was no number; left out: a in 1",
        "epoch 7: 1 steps had no finite gradient and changed nothing",
    ]
    caplog.clear()
    troubles.tell(8)
    assert not caplog.records
    assert troubles == Troubles()
