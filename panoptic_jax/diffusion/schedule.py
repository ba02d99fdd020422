"""The noise schedule: Stable Diffusion's 1000 betas, and its continuous form for the solvers.

Everything is computed on the host in float64; training gathers from a float32 table.
"""

import functools

import numpy as np

NUM_STEPS = 1000
FIRST_TIME = 1 / NUM_STEPS  # where sampling ends
LAST_TIME = 1.0  # where it starts


@functools.cache
def log_alphas() -> np.ndarray:
    """log alpha_t at t = 1..1000 (index 0 is t = 1), where alpha_t^2 = prod(1 - beta). Float64."""
    betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), NUM_STEPS, dtype=np.float64) ** 2
    return 0.5 * np.cumsum(np.log1p(-betas))


def training_table() -> np.ndarray:
    """(1000, 2) float32: alpha_t and sigma_t of x_t = alpha_t x_0 + sigma_t eps; row 0 is t = 1."""
    log_alpha = log_alphas()
    return np.stack([np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))], -1).astype(np.float32)


def alpha_sigma(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma at continuous times in [0.001, 1]: log alpha is linear between integers."""
    grid = np.arange(1, NUM_STEPS + 1) / NUM_STEPS
    log_alpha = np.interp(time, grid, log_alphas())
    return np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))


def log_snr(time: np.ndarray) -> np.ndarray:
    """lambda = log(alpha / sigma), half the log signal-to-noise ratio; falls as time grows."""
    alpha, sigma = alpha_sigma(time)
    return np.log(alpha) - np.log(sigma)


def time_of_log_snr(lam: np.ndarray) -> np.ndarray:
    """Inverse of `log_snr`."""
    log_alpha = -0.5 * np.logaddexp(0.0, -2.0 * lam)
    grid = np.arange(1, NUM_STEPS + 1) / NUM_STEPS
    return np.interp(log_alpha, log_alphas()[::-1], grid[::-1])
