"""Settings tried in virtual time: the load generator's own rules and metrics, on simulated replicas."""
