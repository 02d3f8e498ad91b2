"""What a fit is asked to do: settings, presets and what is wrong with them."""
