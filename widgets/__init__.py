"""The views of a trace: widgets, figures and offline HTML. Imports workbench, never torch or transformers."""
