"""Several callbacks as one."""

import lightning.pytorch as L

from linreg_pl.callbacks import Together


class Noting(L.Callback):
    def __init__(self, name, notes):
        self.name, self.notes = name, notes

    def on_fit_end(self, trainer, pl_module):
        self.notes.append(self.name)


class Silent(L.Callback):
    """Uses no hook."""


def test_hooks_reach_their_users_in_order():
    notes = []
    together = Together([Noting("first", notes), Silent(), Noting("second", notes)])
    together.on_fit_end(None, None)
    together.on_train_start(None, None)  # nobody's
    assert notes == ["first", "second"]


def test_a_single_user_is_called_itself():
    noting = Noting("only", [])
    assert Together([Silent(), noting]).on_fit_end == noting.on_fit_end
