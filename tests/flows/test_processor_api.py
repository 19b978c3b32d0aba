"""The processor API of the contract, section 4: every shape, every answer and every error of a processor."""
