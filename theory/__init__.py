"""Token MDPs solved exactly: endogenous rewards, the theorems about them, and their true worst cases."""

__version__ = "0.1.0"
