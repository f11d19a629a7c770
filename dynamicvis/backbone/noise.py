"""Scale of the noise on the region scores in training."""

from __future__ import annotations


class NoiseDecay:
    """Noise scale that falls linearly with the progress of a training run.

    Args:
        start: scale at the beginning of the run.
        end: scale at its end.

    The training loop sets ``progress``, from 0 (beginning) to 1 (end), usually once per epoch.

    Source: arXiv 2503.16426, section 4.4 (decay 0.1).
    """

    def __init__(self, start: float = 0.1, end: float = 1e-4) -> None:
        if not start >= end >= 0:
            raise ValueError(f"NoiseDecay needs start >= end >= 0, got start={start} and end={end}")
        self.start = start
        self.end = end
        self.progress = 0.0

    @property
    def scale(self) -> float:
        """The scale at the present progress."""
        return self.start + (self.end - self.start) * min(max(self.progress, 0.0), 1.0)


def noise_scale(noise: float | NoiseDecay) -> float:
    """Scale of a fixed or a decaying noise."""
    return noise.scale if isinstance(noise, NoiseDecay) else float(noise)
