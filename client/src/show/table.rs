// SPDX-License-Identifier: Apache-2.0
//! Columns: at least ten wide, three spaces between, the last one open, as the docker CLI's.

const MIN_WIDTH: usize = 10;
const PADDING: usize = 3;

/// Lines of cells, laid out.
pub(crate) fn layout(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![MIN_WIDTH; columns];
    for line in lines {
        // A line's last cell sets no width: nothing follows it.
        for (cell, width) in line.iter().zip(&mut widths).take(line.len().saturating_sub(1)) {
            *width = (*width).max(cell.chars().count() + PADDING);
        }
    }
    let mut out = String::new();
    for line in lines {
        for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
            out.push_str(cell);
            if index + 1 < line.len() {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_dockers() {
        let lines = |rows: &[&[&str]]| -> Vec<Vec<String>> {
            rows.iter().map(|r| r.iter().map(|c| (*c).to_owned()).collect()).collect()
        };
        let header: &[&str] = &["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
        assert_eq!(
            layout(&lines(&[header])),
            "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n"
        );
        let row: &[&str] =
            &["0123456789ab", "busybox", "\"sleep 1000\"", "2 seconds ago", "Up 1 second", "", "c1"];
        assert_eq!(
            layout(&lines(&[header, row])),
            "CONTAINER ID   IMAGE     COMMAND        CREATED         STATUS        PORTS     NAMES\n\
             0123456789ab   busybox   \"sleep 1000\"   2 seconds ago   Up 1 second             c1\n"
        );
    }
}
