"""The web pages of the server: plain HTML, readable without JavaScript."""
