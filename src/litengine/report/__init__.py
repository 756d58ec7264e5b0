"""What a test shows of a classifier: numbers, pictures, and a page that holds both.

`pictures` and `page` need matplotlib and jinja2; import them where they are used.
"""

from litengine.report.metrics import ClassScores, Confusion, Results, ranked

__all__ = ["ClassScores", "Confusion", "Results", "ranked"]
