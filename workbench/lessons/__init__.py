"""The lessons: their exercises, what a student hands in, and the notebooks in JupyterLab.

    from workbench import lessons

    lessons.check("04.2", answer)      # right, or a hint; after the last hint, a solution
    lessons.report("Ada")              # one file to hand in
    lessons.collect("handed-in")       # a teacher's table of many such files

``workbench lab`` copies the notebooks (:mod:`workbench.lessons.copies`) and opens them.
"""

from workbench.lessons.checking import Checked, check
from workbench.lessons.copies import FOLDER, Copied, command, copy, run, source
from workbench.lessons.handin import collect, report
from workbench.lessons.registry import Exercise, exercises

__all__ = [
    "FOLDER",
    "Checked",
    "Copied",
    "Exercise",
    "check",
    "collect",
    "command",
    "copy",
    "exercises",
    "report",
    "run",
    "source",
]
