"""The view model for interfaces: a pure fold of a run's events into what a page or a terminal shows."""
