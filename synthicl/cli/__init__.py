"""The command lines: what is asked, what is checked before torch is loaded, what runs."""
