import io
import math

import pytest

from linreg_pl.errors import DIM, InputError, nearest, printable, require_not_negative, require_positive, styled


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_not_positive_is_refused(value):
    with pytest.raises(InputError, match=rf"^--model.lr {value}: must be a positive number$"):
        require_positive("--model.lr", value)


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf])
def test_negative_is_refused(value):
    with pytest.raises(InputError, match=rf"^--model.init_std {value}: must be zero or a positive number$"):
        require_not_negative("--model.init_std", value)


def test_good_values_pass():
    require_positive("--model.lr", 1e-300)
    require_not_negative("--model.init_std", 0)


@pytest.mark.parametrize(("name", "found"), [("Price", "price"), ("prize", "price"), ("rooms", None), ("", None)])
def test_nearest_name_is_what_was_meant(name, found):
    assert nearest(name, ["area", "price"]) == found


def test_names_cannot_move_the_cursor():
    assert printable("a\x1b[2Jb\rc") == "a\ufffd[2Jb\ufffdc"
    assert printable("größe m²") == "größe m²"


def test_files_and_pipes_get_no_colours():
    assert styled("text", DIM, io.StringIO()) == "text"
