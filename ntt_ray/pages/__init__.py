"""What all HTML pages share: pictures, masks as paths, and the templates with their environment."""
