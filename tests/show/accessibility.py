"""What any page must be for people who see little or use no mouse, as functions for a browser."""

AA = 4.5
"""The contrast of text that WCAG 2.2 demands, level AA."""

WORST_CONTRAST = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const colour = numbers(getComputedStyle(node).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const found = [...document.querySelectorAll("body *")].filter((node) =>
        [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())
        && node.checkVisibility() && !node.matches("script, noscript, .skip, [disabled], option"));
    return Math.min(...found.map((node) => {
        const one = luminance(numbers(getComputedStyle(node).color));
        const two = luminance(ground(node));
        return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    }));
}"""
"""The lowest contrast of any text that is shown."""

NAMELESS = """() => {
    const named = (node) => node.textContent.trim() || node.ariaLabel || node.title || node.labels?.length
        || node.getAttribute("aria-labelledby");
    return [...document.querySelectorAll("button, input, select, summary, textarea, iframe")]
        .filter((node) => (node.tabIndex < 0 && node.role !== "tab") || !named(node))
        .map((node) => node.outerHTML.slice(0, 80));
}"""
"""What can be operated, but is not reached by keys or has no name."""
