"""The embedded model: a real, tiny Gemma 4 trained from scratch on a world this package makes itself.

``weights/`` is loaded by the same code that loads the 12B model; ``drafter/`` is its multi-token-prediction drafter;
``CARD.md`` says what they can do. Importing this package imports nothing heavy.
"""

from pathlib import Path

__all__ = ["CARD", "DRAFTER", "HERE", "WEIGHTS"]

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights"
DRAFTER = HERE / "drafter"
CARD = HERE / "CARD.md"
