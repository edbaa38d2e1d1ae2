"""Posteriors as functions: drawn paths, samplers, the certificate of their error."""
