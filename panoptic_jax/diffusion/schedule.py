"""The noise schedule: Stable Diffusion's 1000 betas, and its continuous form for the solver.

Everything is computed on the host in float64; training gathers from a float32 table. Noise is added
in `diffusion/loss.py`; the solver's steps are in `diffusion/solver.py`.
"""

import functools

import numpy as np

NUM_STEPS = 1000
FIRST_TIME = 1 / NUM_STEPS  # sampling goes from the last time to the first
LAST_TIME = 1.0


@functools.cache
def log_alphas() -> np.ndarray:
    """(1000,) float64: log alpha_t at t = 1..1000, where alpha_t^2 = prod(1 - beta_i), i = 1..t.

    Index 0 is t = 1. The paper writes sqrt(alpha-bar) for this alpha_t.
    """
    roots = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), NUM_STEPS, dtype=np.float64)
    betas = roots**2
    # Eq. 1, whose beta_t must be a root: each step keeps sqrt(1 - beta_t) of the one before.
    return 0.5 * np.cumsum(np.log1p(-betas))


def training_table() -> np.ndarray:
    """(1001, 2) float32: alpha_t and sigma_t of Eq. 2 and Eq. 3 at t = 0..1000; 0 is clean."""
    alpha, sigma = _alpha_sigma(np.concatenate([[0.0], log_alphas()]))
    return np.stack([alpha, sigma], axis=-1).astype(np.float32)


def alpha_sigma(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma at continuous times.

    Args:
      time: Times in [0, 1]; t / 1000 for an integer t of training. At 0 a stream is clean.

    Returns:
      Two float64 arrays of the shape of `time`.
    """
    # U-ViT's solver does the same: log alpha is linear between the integers t.
    times = np.arange(NUM_STEPS + 1) / NUM_STEPS
    log_alpha = np.interp(time, times, np.concatenate([[0.0], log_alphas()]))
    return _alpha_sigma(log_alpha)


def log_snr(time: np.ndarray) -> np.ndarray:
    """lambda = log(alpha / sigma), half the log signal-to-noise ratio; it falls as time grows."""
    alpha, sigma = alpha_sigma(time)
    return np.log(alpha) - np.log(sigma)


def time_of_log_snr(lam: np.ndarray) -> np.ndarray:
    """The time at which `log_snr` is `lam`, for `lam` within the values of the schedule."""
    # alpha^2 = 1 / (1 + exp(-2 lambda)), since alpha^2 + sigma^2 = 1.
    log_alpha = -0.5 * np.logaddexp(0.0, -2.0 * lam)
    return np.interp(log_alpha, log_alphas()[::-1], _integer_times()[::-1])


def _alpha_sigma(log_alpha):
    sigma = np.sqrt(-np.expm1(2 * log_alpha))
    return np.exp(log_alpha), sigma


def _integer_times():
    return np.arange(1, NUM_STEPS + 1) / NUM_STEPS
