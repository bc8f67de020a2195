"""Counters and gauges in Prometheus' text format."""

import prometheus_client as prometheus

TIMES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Metrics of one server, in a registry of their own."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        own = {"registry": self.registry, "namespace": "jaxmodels"}
        self.requests = prometheus.Counter("requests", "answers", ["path", "status"], **own)
        self.prompt_tokens = prometheus.Counter("prompt_tokens", "tokens of prompts", **own)
        self.tokens = prometheus.Counter("generated_tokens", "tokens drawn", **own)
        self.cancelled = prometheus.Counter("cancelled", "requests whose client went away", **own)
        self.first = prometheus.Histogram(
            "time_to_first_token_seconds", "arrival to first text", buckets=TIMES, **own
        )
        self._own = own

    def watch(self, name: str, help: str, value) -> None:
        """Add a gauge whose value is that of a function when it is asked for."""
        prometheus.Gauge(name, help, **self._own).set_function(value)

    def text(self) -> bytes:
        """Return all metrics."""
        return prometheus.generate_latest(self.registry)
