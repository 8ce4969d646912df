"""What all HTML pages share: pictures, masks as paths, templates."""
