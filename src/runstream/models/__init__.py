"""Models: requests to providers, and the decoders that turn their bytes into typed events of the Responses API."""
