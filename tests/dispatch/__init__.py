"""The dispatcher: a service that says what a test wants, and time moved by hand."""
