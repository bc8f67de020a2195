"""A HyperTensor field in float64 NumPy, one input and one tensor at a time: the definition."""

import numpy as np


def weights_of(kind, t):
    """The three weights at t in [-1, 1], written per side from the textbook."""
    r = abs(t)
    if kind == "lerp":
        zero, outer, far = 1 - r, r, 0.0
    elif kind == "hermite":
        outer = 3 * r**2 - 2 * r**3
        zero, far = 1 - outer, 0.0
    elif kind == "quadratic":
        zero, outer, far = 1 - r**2, (r + r**2) / 2, (r**2 - r) / 2
    else:  # Catmull-Rom through far, zero, outer, and a straight continuation beyond outer
        h00, h10 = 2 * r**3 - 3 * r**2 + 1, r**3 - 2 * r**2 + r
        h01, h11 = -2 * r**3 + 3 * r**2, r**3 - r**2
        zero, outer, far = h00 - h11, h01 + h10 / 2 + h11, -h10 / 2
    return np.array([far, zero, outer] if t >= 0 else [outer, zero, far])


class Definition:
    """Predicts and learns as the source's equations say."""

    def __init__(self, field, config):
        names = ("normal", "offset", "bands", "columns", "mass")
        self.n, self.delta, self.bands, self.c, self.mass = (
            np.asarray(getattr(field, name), np.float64) for name in names
        )
        self.config = config

    def distance(self, i, x):
        planar = abs(self.n[i] @ x + self.delta[i])
        euclidean = np.linalg.norm(x + self.delta[i] * self.n[i])
        hybrid = np.sqrt(planar * euclidean)
        return {
            "planar": planar,
            "euclidean": euclidean,
            "hybrid": hybrid,
            "hybrid_exp": hybrid * np.exp(np.sqrt(hybrid / 5.0)),
        }[self.config.distance]

    def read(self, x):
        """Return {tensor: (weight, alpha (3,), slope (3,))} of the K nearest."""
        far = np.array([self.distance(i, x) for i in range(len(self.n))])
        near = np.argsort(far, kind="stable")[: self.config.nearest]
        if self.config.weighting == "softmax":
            w = np.exp(-(far[near] - far[near].min()) / self.config.temperature)
        else:
            w = 1.0 / far[near]
        w /= w.sum()
        return {int(i): (w[k], *self.interpolate(i, x)) for k, i in enumerate(near)}

    def interpolate(self, i, x, h=1e-6):
        """Weights of the columns, and their derivative along d by central differences."""
        d = self.n[i] @ x + self.delta[i]

        def at(d):
            band = self.bands[i, 1] if d >= 0 else -self.bands[i, 0]
            return weights_of(self.config.interpolation, np.clip(d / band, -1, 1))

        return at(d), (at(d + h) - at(d - h)) / (2 * h)

    def predict(self, x):
        return sum(w * alpha @ self.c[i] for i, (w, alpha, _) in self.read(x).items())

    def update(self, x, g):
        """The local rule of one sample: columns, normal, offset; weights held constant."""
        rate, geometry = self.config.rate, self.config.geometry_rate
        for i, (w, alpha, slope) in self.read(x).items():
            coefficient = w * (slope @ (self.c[i] @ g))
            self.c[i] -= rate * w * np.outer(alpha, g)
            self.n[i] -= geometry * coefficient * x
            self.n[i] /= np.linalg.norm(self.n[i])
            self.delta[i] -= geometry * coefficient
