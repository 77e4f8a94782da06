"""The columns of a report's coefficient table. A new column needs one line here, and its numbers in the report."""

from typing import Literal, NamedTuple


class CoefficientColumn(NamedTuple):
    """A column of numbers in the coefficient table, and where it is shown."""

    name: str  # key in the rows of report["coefficients"], and heading in coefficients.csv
    number_format: str = ".6g"
    shown_for: Literal["all", "sgd", "exact"] = "all"  # reports of models fitted by SGD, or solved exactly
    title: str = ""  # by default the name; {level} stands for the confidence level
    in_sweep: Literal["", "each", "length"] = ""  # as NAME/COEFFICIENT, or besides as NAME its length over all

    def heading(self, confidence_level: float) -> str:
        """The title, with the confidence level in it."""
        return self.title.format(level=f"{confidence_level:.4g}") or self.name.replace("_", " ")


COLUMNS = (  # in the order in which they are shown and written
    CoefficientColumn("estimate"),
    CoefficientColumn("optimum", shown_for="sgd"),
    CoefficientColumn("distance", ".2g", shown_for="sgd", in_sweep="length"),
    CoefficientColumn("standard_error", ".3g"),
    CoefficientColumn("ci_low", shown_for="exact", title="{level} from"),
    CoefficientColumn("ci_high", shown_for="exact", title="to"),
    CoefficientColumn("t", ".4g", shown_for="exact"),
    CoefficientColumn("p", ".2g", shown_for="exact", in_sweep="each"),
    CoefficientColumn("true"),
    CoefficientColumn("error", ".2g", in_sweep="length"),
    CoefficientColumn("beta", ".4g"),
    CoefficientColumn("vif", ".3g", shown_for="exact"),
)
