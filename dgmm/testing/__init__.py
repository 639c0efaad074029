"""Public conformance suites: subclass one to test an implementation of a protocol of dgmm."""
