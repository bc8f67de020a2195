"""The optional controller: from the logged history to continue, lower the rate or stop."""
