//! Where the jobs of a run stand in its graph, and the lines between them.
//!
//! Layered drawing in four steps: needs that other needs imply are left out; a job stands one layer
//! right of the last of its needs; inside a layer, jobs are ordered by the mean place of their
//! neighbours, back and forth, and the order with the fewest crossings is kept; then each is moved
//! as near to its neighbours as the order allows. A line over several layers passes through a
//! bend in each, so that it goes around jobs and not behind them.
//!
//! Always: no two jobs overlap; every need that is drawn goes from left to right. Needs that form a
//! circle or point nowhere, which a plan never has, are ignored rather than drawn wrongly.
//! Elsewhere: what a node shows (`graph.html`).

use std::collections::VecDeque;
use std::fmt::Write as _;

/// Size of a node and the gaps between them, in pixels.
pub const NODE_WIDTH: i32 = 190;
pub const NODE_HEIGHT: i32 = 44;
const LAYER_GAP: i32 = 62;
const NODE_GAP: i32 = 14;
/// Height that a line takes where it passes a layer.
const BEND_HEIGHT: i32 = 10;
const MARGIN: i32 = 6;

/// More bends than this are not worth their time: long lines are then drawn straight.
const BENDS_MAX: usize = 4_000;
/// Passes over the layers; the order has settled long before in practice.
const SWEEPS: usize = 8;

/// A finished drawing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub width: i32,
    pub height: i32,
    /// Upper left corners, in the order of the jobs.
    pub nodes: Vec<Corner>,
    pub lines: Vec<Line>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Corner {
    pub x: i32,
    pub y: i32,
}

/// A need: from the needed job to the one that needs it.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub from: usize,
    pub to: usize,
    /// SVG path data.
    pub path: String,
}

/// A job or a bend, while it is being placed.
struct Cell {
    layer: usize,
    height: i32,
    /// Neighbours in the layer before and the layer after.
    before: Vec<usize>,
    after: Vec<usize>,
}

/// Places jobs, given for each the positions of those that it needs.
pub fn layout(needs: &[Vec<usize>]) -> Layout {
    let (layers, needs) = layered(needs);
    let mut cells: Vec<Cell> = layers.iter().map(|&layer| Cell::new(layer, NODE_HEIGHT)).collect();
    let routes = routed(&needs, &mut cells);
    let mut order = by_layer(&cells);
    untangle(&mut order, &cells);
    let middles = settle(&order, &cells);
    drawn(needs.len(), &cells, &middles, &routes)
}

impl Cell {
    fn new(layer: usize, height: i32) -> Self {
        Self { layer, height, before: Vec::new(), after: Vec::new() }
    }

    fn x(&self) -> i32 {
        MARGIN + i32::try_from(self.layer).unwrap_or(0) * (NODE_WIDTH + LAYER_GAP)
    }
}

/// The layer of each job (longest path from a job without needs), and the needs worth drawing.
fn layered(needs: &[Vec<usize>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let n = needs.len();
    let mut needs: Vec<Vec<usize>> = needs.to_vec();
    let mut needed_by = vec![Vec::new(); n];
    for (job, own) in needs.iter_mut().enumerate() {
        own.retain(|&need| need < n && need != job);
        own.sort_unstable();
        own.dedup();
        own.iter().for_each(|&need| needed_by[need].push(job));
    }
    let mut missing: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut ready: VecDeque<usize> = (0..n).filter(|&job| missing[job] == 0).collect();
    let mut layers = vec![0; n];
    let mut sorted = Vec::with_capacity(n);
    while let Some(job) = ready.pop_front() {
        sorted.push(job);
        for &next in &needed_by[job] {
            layers[next] = layers[next].max(layers[job] + 1);
            missing[next] -= 1;
            if missing[next] == 0 {
                ready.push_back(next);
            }
        }
    }
    for job in 0..n {
        if missing[job] > 0 {
            (layers[job], needs[job]) = (0, Vec::new());
        }
    }
    let reduced = reduced(&needs, &sorted);
    (layers, reduced)
}

/// Leaves out a need that another need has already: it says nothing new and hides the rest.
fn reduced(needs: &[Vec<usize>], sorted: &[usize]) -> Vec<Vec<usize>> {
    let words = needs.len().div_ceil(64);
    let mut above = vec![vec![0u64; words]; needs.len()];
    let mut reduced = vec![Vec::new(); needs.len()];
    for &job in sorted {
        let mut implied = vec![0u64; words];
        for &need in &needs[job] {
            implied.iter_mut().zip(&above[need]).for_each(|(all, more)| *all |= more);
        }
        let has = |set: &[u64], at: usize| set[at / 64] >> (at % 64) & 1 == 1;
        reduced[job] = needs[job].iter().copied().filter(|&need| !has(&implied, need)).collect();
        for &need in &needs[job] {
            implied[need / 64] |= 1 << (need % 64);
        }
        above[job] = implied;
    }
    reduced
}

/// Adds bends, and gives for each need the cells that its line visits.
fn routed(needs: &[Vec<usize>], cells: &mut Vec<Cell>) -> Vec<Vec<usize>> {
    let spans = |job: usize, need: usize, cells: &[Cell]| cells[job].layer - cells[need].layer - 1;
    let pairs =
        || needs.iter().enumerate().flat_map(|(job, own)| own.iter().map(move |n| (*n, job)));
    let n_bends: usize = pairs().map(|(need, job)| spans(job, need, cells)).sum();
    let mut routes = Vec::new();
    for (need, job) in pairs() {
        let mut route = vec![need];
        if n_bends <= BENDS_MAX {
            for layer in cells[need].layer + 1..cells[job].layer {
                route.push(cells.len());
                cells.push(Cell::new(layer, BEND_HEIGHT));
            }
        }
        route.push(job);
        for pair in route.windows(2) {
            cells[pair[0]].after.push(pair[1]);
            cells[pair[1]].before.push(pair[0]);
        }
        routes.push(route);
    }
    routes
}

fn by_layer(cells: &[Cell]) -> Vec<Vec<usize>> {
    let n_layers = cells.iter().map(|cell| cell.layer + 1).max().unwrap_or(0);
    let mut order = vec![Vec::new(); n_layers];
    cells.iter().enumerate().for_each(|(at, cell)| order[cell.layer].push(at));
    order
}

/// Orders every layer by the mean place of neighbours, keeping the best order seen.
fn untangle(order: &mut Vec<Vec<usize>>, cells: &[Cell]) {
    let mut places = places(order, cells.len());
    let mut best = (crossings(order, cells, &places), order.clone());
    for sweep in 0..SWEEPS {
        if best.0 == 0 {
            break;
        }
        let forward = sweep % 2 == 0;
        let n_layers = order.len();
        for step in 0..n_layers {
            let layer = if forward { step } else { n_layers - 1 - step };
            let mean = |&cell: &usize| {
                let near = if forward { &cells[cell].before } else { &cells[cell].after };
                match near.len() {
                    0 => places[cell] as f64,
                    n => near.iter().map(|&at| places[at] as f64).sum::<f64>() / n as f64,
                }
            };
            let mut keyed: Vec<(f64, usize)> = order[layer].iter().map(|c| (mean(c), *c)).collect();
            // Stable: what has no preference keeps the written order.
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            order[layer] = keyed.into_iter().map(|(_, cell)| cell).collect();
            order[layer].iter().enumerate().for_each(|(place, &cell)| places[cell] = place);
        }
        let found = crossings(order, cells, &places);
        if found < best.0 {
            best = (found, order.clone());
        }
    }
    *order = best.1;
}

fn places(order: &[Vec<usize>], n_cells: usize) -> Vec<usize> {
    let mut places = vec![0; n_cells];
    for layer in order {
        layer.iter().enumerate().for_each(|(place, &cell)| places[cell] = place);
    }
    places
}

/// How many pairs of lines cross: inversions among the far ends, counted with a Fenwick tree.
fn crossings(order: &[Vec<usize>], cells: &[Cell], places: &[usize]) -> usize {
    let mut total = 0;
    for layer in order {
        let size =
            1 + layer.iter().flat_map(|&c| &cells[c].after).map(|&c| places[c]).max().unwrap_or(0);
        let mut tree = vec![0usize; size + 1];
        let mut n_seen = 0;
        for &cell in layer {
            let mut ends: Vec<usize> = cells[cell].after.iter().map(|&c| places[c]).collect();
            ends.sort_unstable();
            for &end in &ends {
                let (mut at, mut not_above) = (end + 1, 0);
                while at > 0 {
                    not_above += tree[at];
                    at &= at - 1;
                }
                total += n_seen - not_above;
            }
            for end in ends {
                let mut at = end + 1;
                while at <= size {
                    tree[at] += 1;
                    at += at & at.wrapping_neg();
                }
                n_seen += 1;
            }
        }
    }
    total
}

/// The middle of each cell: as near to its neighbours' as the order in its layer allows.
fn settle(order: &[Vec<usize>], cells: &[Cell]) -> Vec<f64> {
    let mut middles = vec![0.0; cells.len()];
    for layer in order {
        let mut y = 0.0;
        for &cell in layer {
            middles[cell] = y + f64::from(cells[cell].height) / 2.0;
            y += f64::from(cells[cell].height + NODE_GAP);
        }
    }
    for sweep in 0..SWEEPS {
        let wish = |cell: usize, middles: &[f64]| {
            let (before, after) = (&cells[cell].before, &cells[cell].after);
            let near = if sweep % 2 == 0 { before } else { after };
            let near =
                if near.is_empty() { if sweep % 2 == 0 { after } else { before } } else { near };
            match near.len() {
                0 => middles[cell],
                n => near.iter().map(|&at| middles[at]).sum::<f64>() / n as f64,
            }
        };
        for step in 0..order.len() {
            let layer = if sweep % 2 == 0 { step } else { order.len() - 1 - step };
            let wishes: Vec<f64> = order[layer].iter().map(|&c| wish(c, &middles)).collect();
            spread(&order[layer], &wishes, cells, &mut middles);
        }
    }
    middles
}

/// Nearest places to the wishes, by least squares, that keep order and distance: cells that would
/// overlap are pooled and share the mean of their wishes.
fn spread(layer: &[usize], wishes: &[f64], cells: &[Cell], middles: &mut [f64]) {
    struct Pool {
        sum: f64,
        n: f64,
        first: usize,
    }
    let mut offsets = Vec::with_capacity(layer.len());
    let mut offset = 0.0;
    for (at, &cell) in layer.iter().enumerate() {
        if at > 0 {
            let heights = cells[layer[at - 1]].height + cells[cell].height;
            offset += f64::from(heights) / 2.0 + f64::from(NODE_GAP);
        }
        offsets.push(offset);
    }
    let mut pools: Vec<Pool> = Vec::new();
    for at in 0..layer.len() {
        let mut pool = Pool { sum: wishes[at] - offsets[at], n: 1.0, first: at };
        while let Some(last) = pools.pop_if(|last| last.sum / last.n >= pool.sum / pool.n) {
            pool = Pool { sum: last.sum + pool.sum, n: last.n + pool.n, first: last.first };
        }
        pools.push(pool);
    }
    for (at, pool) in pools.iter().enumerate() {
        let end = pools.get(at + 1).map_or(layer.len(), |next| next.first);
        for place in pool.first..end {
            middles[layer[place]] = pool.sum / pool.n + offsets[place];
        }
    }
}

fn drawn(n_jobs: usize, cells: &[Cell], middles: &[f64], routes: &[Vec<usize>]) -> Layout {
    let top = |at: usize| middles[at] - f64::from(cells[at].height) / 2.0;
    let highest = (0..cells.len()).map(top).fold(f64::INFINITY, f64::min);
    let middle = |at: usize| (middles[at] - highest).round() as i32 + MARGIN;
    let nodes: Vec<Corner> = (0..n_jobs)
        .map(|at| Corner { x: cells[at].x(), y: middle(at) - NODE_HEIGHT / 2 })
        .collect();
    let lines = routes.iter().map(|route| line(route, cells, &middle)).collect();
    let right = cells.iter().map(Cell::x).max().unwrap_or(0) + NODE_WIDTH + MARGIN;
    let bottom = (0..cells.len()).map(|at| middle(at) + cells[at].height / 2).max().unwrap_or(0);
    let (width, height) = if n_jobs == 0 { (0, 0) } else { (right, bottom + MARGIN) };
    Layout { width, height, nodes, lines }
}

/// Curves in the gaps, level lines across the layers that are only passed.
fn line(route: &[usize], cells: &[Cell], middle: &dyn Fn(usize) -> i32) -> Line {
    let (from, to) = (route[0], route[route.len() - 1]);
    let mut path = format!("M{} {}", cells[from].x() + NODE_WIDTH, middle(from));
    let mut x = cells[from].x() + NODE_WIDTH;
    let mut y = middle(from);
    for &cell in &route[1..] {
        let (next_x, next_y) = (cells[cell].x(), middle(cell));
        if next_y == y {
            let _ = write!(path, "H{next_x}");
        } else {
            let half = x + (next_x - x) / 2;
            let _ = write!(path, "C{half} {y} {half} {next_y} {next_x} {next_y}");
        }
        (x, y) = (next_x, next_y);
        if cell != to {
            x += NODE_WIDTH;
            let _ = write!(path, "H{x}");
        }
    }
    Line { from, to, path }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlaps(layout: &Layout) -> bool {
        let apart = |a: &Corner, b: &Corner| a.x != b.x || (a.y - b.y).abs() >= NODE_HEIGHT;
        let nodes = &layout.nodes;
        (0..nodes.len()).any(|a| (0..a).any(|b| !apart(&nodes[a], &nodes[b])))
    }

    #[test]
    fn a_diamond_has_three_layers_and_is_symmetric() {
        let layout = layout(&[vec![], vec![0], vec![0], vec![1, 2]]);
        let x = |at: usize| layout.nodes[at].x;
        let y = |at: usize| layout.nodes[at].y;
        assert!(x(0) < x(1) && x(1) == x(2) && x(2) < x(3));
        assert_eq!(y(0), y(3));
        assert_eq!(y(1) + y(2), 2 * y(0));
        assert_eq!(layout.lines.len(), 4);
        assert!(!overlaps(&layout));
    }

    #[test]
    fn a_need_that_another_need_implies_is_not_drawn() {
        let layout = layout(&[vec![], vec![0], vec![0, 1]]);
        let lines: Vec<_> = layout.lines.iter().map(|l| (l.from, l.to)).collect();
        assert_eq!(lines, [(0, 1), (1, 2)]);
    }

    #[test]
    fn lines_that_need_not_cross_do_not() {
        // Written so that the first order crosses all three.
        let layout = layout(&[vec![], vec![], vec![], vec![2], vec![1], vec![0]]);
        let y = |at: usize| layout.nodes[at].y;
        assert!(y(0) < y(1) && y(1) < y(2) || y(0) > y(1) && y(1) > y(2));
        assert_eq!((y(3), y(4), y(5)), (y(2), y(1), y(0)));
    }

    #[test]
    fn a_long_line_goes_around_the_jobs_that_it_passes() {
        let layout = layout(&[vec![], vec![0], vec![1], vec![], vec![2, 3]]);
        let long = layout.lines.iter().find(|l| (l.from, l.to) == (3, 4)).unwrap();
        assert!(long.path.matches('H').count() >= 2, "{}", long.path);
        assert!(!overlaps(&layout));
    }

    #[test]
    fn circles_and_needs_of_nothing_are_left_out() {
        let layout = layout(&[vec![1], vec![0], vec![7, 2], vec![]]);
        assert_eq!(layout.nodes.len(), 4);
        assert_eq!(layout.lines, []);
        assert!(!overlaps(&layout));
    }

    #[test]
    fn nothing_is_a_drawing_too() {
        assert_eq!(layout(&[]), Layout::default());
    }

    #[test]
    fn random_graphs_never_overlap_and_always_go_right() {
        let mut seed = 7u64;
        let mut next = |bound: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % bound
        };
        for n in 1..60 {
            let needs: Vec<Vec<usize>> =
                (0..n).map(|job| (0..next(4).min(job)).map(|_| next(job)).collect()).collect();
            let layout = layout(&needs);
            assert!(!overlaps(&layout), "{needs:?}");
            for line in &layout.lines {
                assert!(layout.nodes[line.from].x < layout.nodes[line.to].x);
            }
            assert!(layout.nodes.iter().all(|c| c.x >= 0 && c.y >= 0));
            assert!(layout.nodes.iter().all(|c| c.y + NODE_HEIGHT <= layout.height));
        }
    }
}
