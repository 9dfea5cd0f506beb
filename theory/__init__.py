"""Token MDPs solved exactly: endogenous rewards, the theorems about them, and their true worst cases."""
