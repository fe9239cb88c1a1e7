"""Scorers: what an answer is worth, in 0..1."""


def exact_match(prediction: str, answer: str) -> float:
    """1 if the texts are equal but for case, outer space and a final full stop; an empty prediction is wrong."""
    said = prediction.strip().rstrip(".").strip().casefold()
    return float(bool(said) and said == answer.strip().rstrip(".").strip().casefold())
