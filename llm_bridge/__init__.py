"""The same statements on real causal language models. Submodules load torch when they are
imported.
"""
