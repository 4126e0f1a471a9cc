"""The annex: what is put beside a model's figures, and what is computed about runs. It imports the core; the core never
imports it, and commands import it inside the function that needs it."""
